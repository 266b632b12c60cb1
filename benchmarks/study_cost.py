"""How much work is a study? From the processor time of its cells, which pauses and busy neighbours change little."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from artifacts.study import CellRecord
from laws.studies.records import Study

WORKERS = 2


def costs_of(study: Study) -> dict[str, Any]:
    """Seconds. `wall_s` is what two workers on two idle cores take, cells with a speed one after the other.

    `by_the_clock` says that cells are load tests, which last as long as they are told to.
    """
    cells = (*study.cells, *study.failed)
    read = [cell for cell in cells if cell.processor_s is not None]
    each = {cell.cell: work_s(cell, read) for cell in cells}
    alone = sum(each[cell.cell] for cell in cells if cell.speeds)
    total = sum(each.values())
    return {
        "cells": len(cells),
        "by_the_clock": any(speed.mode == "serving" for cell in cells for speed in cell.speeds),
        "read": len(read),
        "read_s": round(sum(cell.processor_s or 0.0 for cell in read), 1),
        "processor_s": round(total, 1),
        "wall_s": round(alone + (total - alone) / WORKERS, 1),
        "recorded_wall_s": round(sum(cell.wall_s for cell in cells), 1),
    }


def work_s(cell: CellRecord, read: Iterable[CellRecord]) -> float:
    """The cell's own processor time; else the most of those with as many parameters and as much training; else the most
    of those with as much training. Raises ValueError if there is none.
    """
    if cell.processor_s is not None:
        return cell.processor_s
    trained = [each for each in read if each.recovery_tokens == cell.recovery_tokens]
    alike = [each for each in trained if each.params == cell.params] or trained
    return max(each.processor_s or 0.0 for each in alike)
