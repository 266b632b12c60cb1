"""Does a smaller dense model beat a pruned large one? Numbers for C10, at equal parameters and at equal speed.

A rival must be comparable: answering the same tasks, or measured on the same text with as many tokens, which means with
the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scipy import stats

from artifacts.study import CellRecord
from laws.claims.claim import Measurement, Number
from laws.claims.evidence import conditions_of, grouped
from laws.studies.comparison import Analysis
from laws.studies.records import MEAN_OF_TASKS, Study, accuracy_of, method_label

_ROOM = 1.05
"""A rival with 5 % more parameters counts as equal."""


def smaller_dense(analysis: Analysis) -> Iterator[Measurement]:
    """C10: the share of pruned variants that have a dense rival of no more parameters, which is no worse."""
    study = analysis.study
    dense = [cell for cell in study.cells if cell.is_dense and cell.params]
    if len(dense) < 2:
        return
    pruned = [cell for cell in study.cells if cell.ratio > 0 and cell.params]
    for method, cells in grouped(pruned, method_label).items():
        outcomes = [won for cell in cells if (won := is_beaten(study, cell, dense)) is not None]
        if not outcomes:
            continue
        interval = stats.binomtest(sum(outcomes), len(outcomes)).proportion_ci(0.95)
        headline = Number(
            name="share beaten by a smaller dense model",
            value=sum(outcomes) / len(outcomes),
            low=float(interval.low),
            high=float(interval.high),
            n=len(outcomes),
        )
        yield Measurement(scope=method, conditions=conditions_of(cells), numbers=(headline,), cells=(*dense, *cells))


def is_beaten(study: Study, cell: CellRecord, dense: Sequence[CellRecord]) -> bool | None:
    """Whether some dense model of at most as many parameters is at least as good; None where none can be compared."""
    assert cell.params is not None
    rivals = [d for d in dense if d.model != cell.model and d.params and d.params <= cell.params * _ROOM]
    outcomes = [won for rival in rivals if (won := _is_no_worse(rival, cell)) is not None]
    return any(outcomes) if outcomes else None


def _is_no_worse(rival: CellRecord, cell: CellRecord) -> bool | None:
    """By the mean accuracy on the same tasks; without tasks, by the loss on the first text they share."""
    if cell.accuracies and {a.task for a in cell.accuracies} == {a.task for a in rival.accuracies}:
        own, other = accuracy_of(cell, MEAN_OF_TASKS), accuracy_of(rival, MEAN_OF_TASKS)
        return other[0] >= own[0] if own and other else None
    theirs = {(loss.set, loss.tokens): loss.loss_nats for loss in rival.losses}
    shared = [(loss, theirs[loss.set, loss.tokens]) for loss in cell.losses if (loss.set, loss.tokens) in theirs]
    return shared[0][1] <= shared[0][0].loss_nats if shared else None
