"""Which tests one of the two workers runs in order, and the scheduler that keeps to it."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# What starts engines, wherever it stands; then what serves or measures time. The longest groups come first.
ENGINES = (
    "tests/server/test_conformance.py",
    "tests/server/test_engine_faults.py",
    "tests/server/test_identity.py",
    "tests/server/test_served_tasks.py",
    "tests/server/test_vllm.py",
    "tests/modeling/test_served_",
    "tests/compressors/test_engine.py",
    "tests/prunebench/test_latency_engine.py",
    "tests/prunebench/test_shapes_engine.py",
)
CLOCKS = ("tests/loadtest/", "tests/server/", "tests/prunebench/test_study_speeds.py")
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
