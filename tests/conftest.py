"""Two workers share the suite: what starts engines or measures time goes to one of them, in this order, the rest to the
other. Engines would slow each other down, and a clock must not run beside a second clock."""

from __future__ import annotations

from pathlib import Path

import pytest

_TIMED = ("loadtest", "server")
_ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names each test's group and puts the longest group first, so that both workers end together."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _group(item) != "engines")


def _group(item: pytest.Item) -> str:
    folder = item.path.relative_to(_ROOT).parts[0]
    if item.get_closest_marker("engine") is not None or folder in _TIMED:
        return "engines"
    return item.path.stem
