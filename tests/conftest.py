"""Two workers share the suite.

One runs all that starts engines or serves, one after the other, because two engines would slow each other down. The
other begins with the load tests, which must not measure beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.scheduling import ORDER, GroupScheduling, group_of
from tests.vllm_host import VllmHost, running_host


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
