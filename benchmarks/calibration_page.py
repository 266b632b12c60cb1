"""The page of `calibration_sets`: what each set leaves of the general text, of the task's text and of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any

from artifacts.study import CellRecord
from benchmarks.pages import made_with

Value = Callable[[CellRecord], float]


def losses(kind: str) -> Value:
    return lambda cell: next(loss.loss_nats for loss in cell.losses if loss.set == kind)


def divergence(kind: str) -> Value:
    """Jensen-Shannon, in nats."""
    return lambda cell: next(loss.js_nats or 0.0 for loss in cell.losses if loss.set == kind)


def accuracy(cell: CellRecord) -> float:
    return cell.accuracies[0].accuracy


COLUMNS: dict[str, Value] = {
    "general loss": losses("general"),
    "task loss": losses("task"),
    "general JSD": divergence("general"),
    "task JSD": divergence("task"),
    "accuracy": accuracy,
}


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    cells = cells_of(raw)
    lines = [
        "# General text against the task's own as calibration",
        "",
        "Means over seeds with [least, most]; a seed draws the calibration windows. Losses in nats per token, Jensen-"
        "Shannon divergences from the dense model in nats (at most ln 2 = 0.693), accuracy on four-way questions. "
        "`general` is text as the model was trained on, `task` is questions with their right answers, `foreign` is "
        "English the model never saw; 8,192 tokens each. What judges has calibrated nothing.",
        "",
        f"Made with {made_with(raw['provenance'])}; each cell of the raw data names its own commit.",
    ]
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        lines += ["", f"## {model}", "", *_table(own), "", *(f"* {text}" for text in verdicts(own))]
    return "\n".join(lines) + "\n"


def cells_of(raw: dict[str, Any]) -> list[CellRecord]:
    """Those that are done."""
    cells = [CellRecord.model_validate(cell) for cell in raw["cells"]]
    return [cell for cell in cells if cell.status == "done"]


def _table(cells: list[CellRecord]) -> Iterator[str]:
    yield "| " + " | ".join(("method", "ratio", "calibrated on", *COLUMNS)) + " |"
    yield "| " + " | ".join(["---"] * (3 + len(COLUMNS))) + " |"
    groups: dict[tuple[str, float, str], list[CellRecord]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.ratio, cell.calibration or "-"), []).append(cell)
    for (method, ratio, calibration), own in groups.items():
        values = (_spread([value(cell) for cell in own]) for value in COLUMNS.values())
        yield "| " + " | ".join((f"`{method}`", f"{ratio:.0%}", calibration, *values)) + " |"


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def gains(cells: list[CellRecord], value: Value, sets: tuple[str, str]) -> list[float]:
    """Value calibrated on the first set less that on the second, of each method, ratio and seed that has both."""
    found = {(cell.method, cell.ratio, cell.seed, cell.calibration): value(cell) for cell in cells}
    return [
        found[(*key, sets[0])] - found[(*key, sets[1])]
        for key in dict.fromkeys(key[:3] for key in found)
        if (*key, sets[0]) in found and (*key, sets[1]) in found
    ]


def verdicts(cells: list[CellRecord]) -> Iterator[str]:
    """What calibrating on the task's text changes beside general text, pair by pair."""
    for name, value in COLUMNS.items():
        changes = gains(cells, value, ("task", "general"))
        if changes:
            better = sum(change > 0 if value is accuracy else change < 0 for change in changes)
            yield (
                f"{name}: task text instead of general changes it by {fmean(changes):+.3f} on average, better in "
                f"{better} of {len(changes)} pairs."
            )
