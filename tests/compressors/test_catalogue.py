"""The methods page names everything that can be asked for, and nothing about it is empty."""

from __future__ import annotations

import pytest

from compressors.allocation import ALLOCATORS
from compressors.catalogue import page
from compressors.methods import REGISTRY
from compressors.recovery.methods import METHODS


def rows_of(section: str) -> dict[str, list[str]]:
    """Cells by the name in the first, of the first table after a heading."""
    table = page().split(f"{section}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("# Methods", REGISTRY.names),
        ("## Allocations", tuple(allocator.name for allocator in ALLOCATORS)),
        ("## Recovery", tuple(METHODS)),
    ],
)
def test_every_name_has_a_full_row(section: str, names: tuple[str, ...]) -> None:
    rows = rows_of(section)
    assert tuple(rows) == names
    for cells in rows.values():
        assert all(cell.strip() for cell in cells), cells


@pytest.mark.parametrize(
    ("method", "data", "checkpoint"),
    [
        ("magnitude", "none", "stock, per-layer if allocated"),
        ("obs", "text", "stock, per-layer if allocated"),
        ("greedy_kl", "text", "stock for layers, per-layer for halves"),
        ("hidden_slice", "text", "stock"),
        ("weight_magnitude", "none", "stock, no faster"),
        ("sparsellm", "text", "stock, no faster"),
    ],
)
def test_what_a_method_needs_and_leaves(method: str, data: str, checkpoint: str) -> None:
    cells = rows_of("# Methods")[method]
    assert (cells[2], cells[5]) == (data, checkpoint)


def test_descriptions_come_from_the_methods_own_files() -> None:
    assert "* **wanda_sp** - a unit matters as much as its consumer weights" in page()
    assert "order = 2" in page(), "settings are shown with their defaults"
