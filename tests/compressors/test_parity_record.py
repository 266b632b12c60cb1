"""The committed comparison with the originals says what the project claims."""

from __future__ import annotations

import copy
from statistics import mean
from typing import Any

import pytest

SCRIPT = "reference_parity"


@pytest.mark.parametrize(("kept", "published"), [(150, 1.626), (129, 1.916), (107, 2.321), (86, 2.788)])
def test_the_flagship_is_at_or_under_osscar(
    script: dict[str, Any], raw: dict[str, Any], kept: int, published: float
) -> None:
    ours = script["excess"](raw, ("obs", "ridge", "uniform"), kept)
    assert len(ours) == 3 and mean(ours) <= published - script["REFERENCE_DENSE"]


def test_the_searched_flagship_is_clearly_under_it(script: dict[str, Any], raw: dict[str, Any]) -> None:
    """By more than the standard error of either evaluation, whatever the seed."""
    errors = [cell["standard_error_nats"] for cell in raw["cells"] if cell["allocation"] == "evolutionary"]
    assert len(errors) == 12 and min(script["searched_margins"](raw)) > max(errors)


def test_a_missing_or_worse_cell_is_a_miss(script: dict[str, Any], raw: dict[str, Any]) -> None:
    before = script["misses"](raw)
    assert "OSSCAR (10 rows a step) at 25 %" not in before
    worse, fewer = copy.deepcopy(raw), copy.deepcopy(raw)
    for cell in worse["cells"]:
        if (cell["method"], cell["repair"], cell["kept"]) == ("obs", "ridge", 129):
            cell["loss_nats"] += 1
    fewer["cells"] = [cell for cell in raw["cells"] if (cell["method"], cell["kept"]) != ("obs", 129)]
    for changed in (worse, fewer):
        assert "OSSCAR (10 rows a step) at 25 %" in script["misses"](changed)


def test_every_cell_is_there_once(raw: dict[str, Any]) -> None:
    keys = [(cell["method"], cell["repair"], cell["allocation"], cell["kept"], cell["seed"]) for cell in raw["cells"]]
    assert len(set(keys)) == len(keys)


def test_the_originals_random_rows_are_a_draw_like_ours(script: dict[str, Any], raw: dict[str, Any]) -> None:
    """Neither better nor worse than all of many: nothing but the draw tells the two apart."""
    draws = [len(script["excess"](raw, ("random", "none", "uniform"), kept)) for kept in script["WIDTHS"]]
    assert min(draws) >= 32
    assert all(0 < under < 32 for under in script["random_draws_under"](raw))
