"""Which tests one of the two workers runs in order, and the scheduler that keeps to it."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# What starts engines or serves, wherever it stands; then what measures time. The longest groups come first.
ENGINES = (
    "tests/server/",
    "tests/modeling/test_served_",
    "tests/compressors/test_engine.py",
    "tests/prunebench/test_latency_engine.py",
)
CLOCKS = ("tests/loadtest/",)
ORDER = ("engines", "clocks")


def group_of(node: str) -> str:
    """The group of a test by its id; elsewhere a file's tests stay together, for their fixtures' sake."""
    if node.startswith(ENGINES):
        return "engines"
    return "clocks" if node.startswith(CLOCKS) else node.partition("::")[0]


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """One group, one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
