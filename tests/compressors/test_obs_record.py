"""The committed measurement of second-order selection says what the project claims."""

from __future__ import annotations

from typing import Any

SCRIPT = "obs_cholesky"


def test_selection_and_repair_take_at_most_eight_factorisations(raw: dict[str, Any]) -> None:
    assert (raw["width"], raw["hidden"]) == (11008, 4096) and len(raw["cells"]) >= 5
    assert all(cell["rank_s"] + cell["repair_s"] <= 8 * cell["cholesky_s"] for cell in raw["cells"])
