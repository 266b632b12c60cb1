"""Two workers share the suite.

One runs all that starts engines or serves, one after the other, because two engines would slow each other down. The
other begins with the load tests, which must not measure beside each other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

# The longest groups come first, so that both workers end together.
_ORDER = ("engines", "clocks")
_ROOT = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # the plug-in reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names each test's group; a file's tests stay together, for their fixtures' sake."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _ORDER.index(_group(item)) if _group(item) in _ORDER else len(_ORDER))


def _group(item: pytest.Item) -> str:
    folder = item.path.relative_to(_ROOT).parts[0]
    if item.get_closest_marker("engine") is not None or folder == "server":
        return "engines"
    return "clocks" if folder == "loadtest" else item.path.stem
