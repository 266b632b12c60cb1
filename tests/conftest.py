"""Three workers share the suite.

One runs all that starts engines, one after the other, because two engines would slow each other down. The second begins
with what serves or measures time, which must not be done twice at once. Everything else gives way to both of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scheduling import ORDER, GroupScheduling, group_of
from tests.vllm_host import VllmHost, running_host

GIVES_WAY = 5  # of 19: a third of the others' weight


@pytest.fixture(scope="session")
def vllm_host() -> Iterator[VllmHost]:
    with running_host() as host:
        yield host


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long groups first, so that both workers end together. Refuses an engine outside its group."""
    astray = [i.nodeid for i in items if i.get_closest_marker("engine") and group_of(i.nodeid) != "engines"]
    if astray:
        raise pytest.UsageError(f"{astray[0]} starts an engine: name its file in tests/scheduling.py")
    items.sort(key=lambda item: ORDER.index(group_of(item.nodeid)) if group_of(item.nodeid) in ORDER else len(ORDER))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A worker of the rest stays nice."""
    is_worker = hasattr(item.config, "workerinput")
    if is_worker and group_of(item.nodeid) not in ORDER and os.getpriority(os.PRIO_PROCESS, 0) < GIVES_WAY:
        os.nice(GIVES_WAY)
