"""The committed runs on general and task calibration, and the numbers that the page draws from cells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from artifacts.study import AccuracyOn, CellRecord, LossOn
from benchmarks.calibration_page import COLUMNS, cells_of, gains, render, verdicts

SCRIPT = "calibration_sets"


def test_every_set_was_measured_alike(raw: dict[str, Any]) -> None:
    """Of each model and method as many cells for each calibration set, over the same ratios and seeds."""
    cells = [cell for cell in cells_of(raw) if not cell.is_dense]
    assert len(cells) == len(raw["cells"]) - len({cell.model for cell in cells}), "no cell failed"
    for model, method in {(cell.model, cell.method) for cell in cells}:
        own = Counter(cell.calibration for cell in cells if (cell.model, cell.method) == (model, method))
        assert {"general", "task"} <= own.keys() and len(set(own.values())) == 1, (model, method, own)


def test_divergences_stand_beside_every_loss(raw: dict[str, Any]) -> None:
    for cell in cells_of(raw):
        assert {loss.set for loss in cell.losses} == {"general", "task"}
        if not cell.is_dense:
            assert all(0 < (loss.js_nats or 0) < 0.6931 for loss in cell.losses), cell.cell


def cell(raw: dict[str, Any], calibration: str, seed: int, task_loss: float, accuracy: float) -> CellRecord:
    """A recorded cell with other values."""
    like = next(each for each in cells_of(raw) if not each.is_dense)
    losses = tuple(
        LossOn(set=kind, loss_nats=loss, base_loss_nats=1.0, tokens=10, js_nats=loss / 10)
        for kind, loss in (("general", 2.0), ("task", task_loss))
    )
    right = (AccuracyOn(task="questions", accuracy=accuracy, base_accuracy=0.5, items=100),)
    changed = {"calibration": calibration, "seed": seed, "losses": losses, "accuracies": right}
    return like.model_copy(update=changed)


def test_gains_are_pairs_of_equal_method_ratio_and_seed(raw: dict[str, Any]) -> None:
    cells = [
        cell(raw, "general", 0, 3.0, 0.25),
        cell(raw, "task", 0, 2.0, 0.5),
        cell(raw, "general", 1, 5.0, 0.25),
        cell(raw, "task", 1, 4.5, 0.25),
        cell(raw, "task", 2, 0.0, 1.0),
    ]
    sets = ("task", "general")
    assert gains(cells, COLUMNS["task loss"], sets) == pytest.approx([-1.0, -0.5])
    assert gains(cells, COLUMNS["task JSD"], sets) == pytest.approx([-0.1, -0.05])
    told = list(verdicts(cells))
    assert "task loss: task text instead of general changes it by -0.750 on average, better in 2 of 2 pairs." in told
    assert "accuracy: task text instead of general changes it by +0.125 on average, better in 1 of 2 pairs." in told
    page = render(raw | {"cells": [each.model_dump(mode="json") for each in cells]})
    assert "| 2.500 [0.000, 4.500] |" not in page and "| 2.167 [0.000, 4.500] |" in page
