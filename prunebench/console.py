"""What a person sees: progress bars with the time left on stderr, the result as one JSON line on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from artifacts.progress import Progress as ProgressCall
from artifacts.units import format_seconds

# Piped stderr has no bar to redraw: one line per stage and tenth then.
_TENTHS = 10


class TimeLeftColumn(ProgressColumn):
    """`12 s left`, or nothing while nobody can know."""

    def render(self, task: Task) -> Text:
        left_s = task.time_remaining
        return Text("" if left_s is None or task.finished else f"{format_seconds(float(left_s))} left")


class StageBars:
    """Draws `progress(stage, done, total)` calls, one bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class StageLines:
    """The same for a log file: a line when a stage begins, at each tenth, and when it ends."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def __call__(self, stage: str, done: float, total: float) -> None:
        tenth = int(done / total * _TENTHS) if total else _TENTHS
        if self._tenths.get(stage) == tenth:
            return
        self._tenths[stage] = tenth
        note(f"{stage}: {tenth * 100 // _TENTHS} %")


@contextmanager
def show_progress() -> Iterator[ProgressCall]:
    """Bars on a terminal, lines elsewhere; both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield StageLines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), TimeLeftColumn(), console=console) as bars:
        yield StageBars(bars)


def show_table(rows: list[list[str]]) -> None:
    """A table on stderr; the first row is the header."""
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console(stderr=True).print(table)


def note(message: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def print_result(result: dict[str, Any]) -> None:
    """The verb's result: one JSON object on the last stdout line."""
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    sys.stdout.flush()
