"""The committed record of structured SparseLLM says what the documents claim of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = "structured_global"
GRID = Path(__file__).parents[2] / "benchmarks" / "methods_grid_cpu_202611.json"


@pytest.fixture
def page(script: dict[str, Any]) -> dict[str, Any]:
    """The page module's functions."""
    return script["render"].__globals__


@pytest.fixture(scope="module")
def grid() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(GRID.read_text(encoding="utf-8"))["rows"]
    return rows


def test_every_cell_is_there_once_and_of_a_known_arm(raw: dict[str, Any], page: dict[str, Any]) -> None:
    keys = [(row["model"], row["arm"], row["ratio"], row["seed"]) for row in raw["rows"]]
    assert len(set(keys)) == len(keys) and {arm for _, arm, _, _ in keys} <= set(page["ARMS"])
    assert {model for model, *_ in keys} == {"stories260K", "demo"}


def test_the_flagship_is_the_grid_s_own(raw: dict[str, Any], page: dict[str, Any], grid: list[dict[str, Any]]) -> None:
    assert raw["flagship"] == page["flagship_rows"](grid)
    assert len(raw["flagship"]) == 2 * 4 * 3


@pytest.mark.parametrize("arm", ["obs, uniform", "obs, flagship's widths"])
def test_what_the_grid_measured_as_well_comes_out_the_same(
    arm: str, raw: dict[str, Any], page: dict[str, Any], script: dict[str, Any], grid: list[dict[str, Any]]
) -> None:
    """Pruning in memory and pruning a checkpoint agree but for rounding, so arms compare with the flagship's row."""
    allocation = "uniform" if "uniform" in arm else "evolutionary"
    losses = {
        (row["cell"]["model"], row["cell"]["ratio"], row["cell"]["seed"]): row["loss_nats"]
        for row in grid
        if [row["cell"][name] for name in ("method", "repair", "allocation")] == ["obs", "ridge", allocation]
    }
    own = [row for row in raw["rows"] if row["arm"] == arm and (allocation != "uniform" or row["seed"] == 0)]
    assert own
    for row in own:
        assert row["loss_nats"] == pytest.approx(losses[row["model"], row["ratio"], row["seed"]], abs=0.02)


@pytest.mark.parametrize(
    "question", ["Does the alternation pay, at uniform widths?", "Do two blocks together pay, at uniform widths?"]
)
def test_what_is_said_to_pay_pays_on_stories260k(question: str, raw: dict[str, Any], page: dict[str, Any]) -> None:
    gains = page["gains"](raw, "stories260K", *page["QUESTIONS"][question])
    assert gains and all(gain > 0 for gain in gains.values())


def test_a_gain_is_counted_where_both_were_measured(raw: dict[str, Any], page: dict[str, Any]) -> None:
    pair = ("structured SparseLLM, uniform", "obs, uniform")
    before, worse = page["gains"](raw, "stories260K", *pair), copy.deepcopy(raw)
    for row in worse["rows"]:
        if row["arm"] == pair[0]:
            row["loss_nats"] += 1
    after = page["gains"](worse, "stories260K", *pair)
    assert after == pytest.approx({ratio: gain - 1 for ratio, gain in before.items()})
    assert "**No**" in page["_answer"](worse, "stories260K", *pair)
    worse["rows"] = [row for row in raw["rows"] if row["arm"] != pair[1]]
    assert page["gains"](worse, "stories260K", *pair) == {}
    assert page["_answer"](worse, "stories260K", *pair) == "Not measured."
