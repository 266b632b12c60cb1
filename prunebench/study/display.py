"""What a person sees of a study: what it will cost, how it stands while it runs, and what went wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from artifacts.study import CellRecord
from artifacts.units import format_seconds
from prunebench.console import note
from prunebench.study.agenda import Agenda
from prunebench.study.cost import Prices, learn
from prunebench.study.plan import CellPlan
from prunebench.study.run import Watcher

Line = tuple[str, str]


def plan_rows(plans: Sequence[CellPlan], prices: Prices, done: set[str]) -> list[list[str]]:
    """One row a model and method; the last row is the sum. The first row is the header."""
    rows = [["model", "method", "cells", "done", "time a cell", "left", "estimate from"]]
    groups: dict[Line, list[CellPlan]] = {**_grouped(plans), ("all", ""): list(plans)}
    for (model, name), members in groups.items():
        costs = [prices.of(plan) for plan in members]
        left_s = sum(cost.total_s for cost in costs if cost.cell not in done)
        mean_s = sum(cost.total_s for cost in costs) / len(costs)
        counts = (str(len(members)), str(sum(plan.cell in done for plan in members)))
        source = _source(all(cost.measured for cost in costs))
        rows.append([model, name, *counts, format_seconds(mean_s), format_seconds(left_s), source])
    return rows


def cell_rows(plans: Sequence[CellPlan], prices: Prices, done: set[str]) -> list[list[str]]:
    """One row a cell, in the order of work, with what has passed by its end. The first row is the header."""
    rows, passed_s = [["cell", "time", "all until then", "estimate from"]], 0.0
    for plan in plans:
        cost = prices.of(plan)
        passed_s += 0.0 if plan.cell in done else cost.total_s
        state = "is there" if plan.cell in done else format_seconds(cost.total_s)
        rows.append([plan.cell, state, format_seconds(passed_s), _source(cost.measured)])
    return rows


def _source(measured: bool) -> str:
    return "measured cells" if measured else "counted work"


def _grouped(plans: Sequence[CellPlan]) -> dict[Line, list[CellPlan]]:
    groups: dict[Line, list[CellPlan]] = {}
    for plan in plans:
        name = plan.at.method + (
            f" + {plan.at.recovery}" if plan.recovery else f" (round {plan.round})" if plan.round else ""
        )
        groups.setdefault((plan.at.model, name), []).append(plan)
    return groups


def status_rows(plans: Sequence[CellPlan], records: Sequence[CellRecord]) -> list[list[str]]:
    """The standing by model and method. The first row is the header."""
    known = {record.cell: record.status for record in records}
    rows = [["model", "method", "done", "failed", "left"]]
    for (model, name), members in _grouped(plans).items():
        found = [known.get(plan.cell, "left") for plan in members]
        rows.append([model, name, *(str(found.count(state)) for state in ("done", "failed", "left"))])
    return rows


class Standing:
    """A Watcher that draws: a table that renews itself on a terminal, a line for each ended cell elsewhere."""

    def __init__(self, params: dict[str, int], workers: int, live: Live | None) -> None:
        self._params = params
        self._workers = max(1, workers)
        self._live = live
        self._since_s: dict[str, float] = {}

    def __call__(self, agenda: Agenda, ended: CellRecord | None) -> None:
        now_s = time.monotonic()
        for cell in agenda.running:
            self._since_s.setdefault(cell, now_s)
        if self._live is not None:
            self._live.update(self._table(agenda, now_s))
        elif ended is not None:
            note(self._line(agenda, ended))

    def left_s(self, agenda: Agenda) -> float:
        """Work that is left, shared by the workers; of running cells what they have not spent yet."""
        prices = learn(self._params, agenda.plans, agenda.records.values())
        spent = {cell: time.monotonic() - self._since_s.get(cell, time.monotonic()) for cell in agenda.running}
        running_s = sum(max(0.0, prices.of(plan).total_s - spent[plan.cell]) for plan in agenda.running.values())
        return (prices.total_s(agenda.pending) + running_s) / self._workers

    def _line(self, agenda: Agenda, ended: CellRecord) -> str:
        finished, total = len(agenda.records), len(agenda.plans)
        what = "done" if ended.error is None else f"FAILED: {ended.error}"
        left = format_seconds(self.left_s(agenda))
        return f"{finished}/{total} {ended.cell}: {what} ({format_seconds(ended.wall_s)}), {left} left"

    def _table(self, agenda: Agenda, now_s: float) -> Table:
        rows = status_rows(agenda.plans, list(agenda.records.values()))
        title = f"{len(agenda.records)} of {len(agenda.plans)} cells, {format_seconds(self.left_s(agenda))} left"
        table = Table(*rows[0], title=title)
        for row in rows[1:]:
            table.add_row(*row)
        for cell in agenda.running:
            table.add_row("running", cell, "", "", format_seconds(now_s - self._since_s[cell]))
        return table


@contextmanager
def standing(params: dict[str, int], workers: int) -> Iterator[Watcher]:
    """On stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Standing(params, workers, None)
        return
    with Live(console=console, refresh_per_second=2, transient=False) as live:
        yield Standing(params, workers, live)
