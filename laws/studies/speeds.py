"""How fast are a study's variants? The one quantity that speaks for each level of load, with the models' sizes.

A closed loop is judged by its tokens per second, an open one by its time per output token, as its throughput is what
was offered; a forward pass by its time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.study import CellRecord, SpeedAt
from laws.studies.records import Study, method_label

_RATE = re.compile(r"([\d.]+)\s*/s")
_CLOSED = re.compile(r"concurrency (\d+)")
FORWARD = "forward_s"
TOKENS = "output_tokens_per_s"
STEP = "tpot_p50_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPoint:
    """One pruned shape at one level."""

    cell: CellRecord
    at: SpeedAt
    base_params: int

    @property
    def method(self) -> str:
        return method_label(self.cell)

    @property
    def time_saved(self) -> float:
        """1 - 1 / speed-up: the share of the time that is no longer needed."""
        return 1 - 1 / self.at.speedup


def speed_points(study: Study) -> Iterator[SpeedPoint]:
    """The speaking quantity of every pruned shape at every level, both modes."""
    for cell in study.cells:
        params = cell.base_params or study.params_of(cell.model)
        for row in cell.speeds:
            if cell.ratio > 0 and params and row.quantity == speaking_quantity(row):
                yield SpeedPoint(cell=cell, at=row, base_params=params)


def speaking_quantity(row: SpeedAt) -> str:
    if row.mode == "paper":
        return FORWARD
    return STEP if rate_of(row.level) is not None else TOKENS


def rate_of(level: str) -> float | None:
    """Requests per second of an open loop's level, None for a closed loop."""
    found = _RATE.search(level)
    return float(found[1]) if found and not _CLOSED.search(level) else None


def load_order(level: str) -> tuple[int, float, str]:
    """Closed loops by their concurrency, then open loops by their rate."""
    closed, rate = _CLOSED.search(level), rate_of(level)
    return (0, float(closed[1]), level) if closed else (1, rate or 0.0, level)
