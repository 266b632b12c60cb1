"""Numbers for the claims about what recovery training wins back, and who recovers better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from statistics import fmean

import numpy as np
from scipy import stats

from artifacts.study import NO_RECOVERY, CellRecord
from laws.claims.claim import Measurement, Number
from laws.claims.evidence import conditions_of, grouped
from laws.fits.bootstrap import mean_interval
from laws.studies.comparison import Analysis
from laws.studies.records import (
    MEAN_OF_TASKS,
    Study,
    VariantKey,
    accuracy_of,
    loss_of,
    method_label,
    shape_key,
    variant_key,
)

_BELOW = 0.5


def recovery_gain(analysis: Analysis) -> Iterator[Measurement]:
    """C3: the largest share of a pruned model's loss that recovery takes away, over all variants of a method."""
    study = analysis.study
    for name, method in product(study.loss_sets, _methods(study)):
        cells = [cell for cell in study.cells if cell.ratio > 0 and method_label(cell) == method]
        gains = gains_of(cells, name)
        if not gains:
            continue
        best = max(gains, key=lambda key: fmean(gains[key]))
        mean, low, high = mean_interval(np.array(gains[best]))
        numbers = (
            Number(name="largest gain", value=mean, low=low, high=high, n=len(gains[best])),
            Number(name="mean gain", value=fmean(g for each in gains.values() for g in each), n=len(gains)),
            Number(name="r of the largest gain", value=best.ratio, n=1),
            Number(name="tokens of the largest gain", value=best.recovery_tokens, n=1),
        )
        used = [cell for cell in cells if loss_of(cell, name)]
        yield Measurement(
            scope=f"{method} · {name}", conditions=conditions_of(used), numbers=numbers, cells=tuple(used)
        )


def gains_of(cells: Sequence[CellRecord], name: str) -> dict[VariantKey, list[float]]:
    """(L(D = 0) - L(D)) / L(D = 0) of each recovered variant, seed by seed, where both were measured."""
    bare = {
        (shape_key(cell), cell.seed): found[0]
        for cell in cells
        if cell.recovery == NO_RECOVERY and (found := loss_of(cell, name))
    }
    gains: dict[VariantKey, list[float]] = {}
    for cell in cells:
        before, after = bare.get((shape_key(cell), cell.seed)), loss_of(cell, name)
        if cell.recovery != NO_RECOVERY and before and after:
            gains.setdefault(variant_key(cell), []).append((before - after[0]) / before)
    return gains


def kept_accuracy(analysis: Analysis) -> Iterator[Measurement]:
    """C4: the mean share of the dense accuracy below r = 0.5, without recovery and with all there is of it."""
    for method in _methods(analysis.study):
        cells = [
            cell
            for cell in analysis.study.cells
            if 0 < cell.ratio < _BELOW and method_label(cell) == method and cell.accuracies
        ]
        if not cells:
            continue
        bare = [cell for cell in cells if cell.recovery == NO_RECOVERY]
        recovered = [cell for cell in cells if cell.recovery != NO_RECOVERY]
        named = (("kept without recovery", bare), ("kept with recovery", recovered))
        numbers = tuple(_kept(name, some) for name, some in named if some)
        yield Measurement(scope=method, conditions=conditions_of(cells), numbers=numbers, cells=tuple(cells))


def _kept(name: str, cells: Sequence[CellRecord]) -> Number:
    shares = [pair[0] / pair[1] for cell in cells if (pair := accuracy_of(cell, MEAN_OF_TASKS))]
    mean, low, high = mean_interval(np.array(shares))
    return Number(name=name, value=mean, low=low, high=high, n=len(shares))


def data_or_none(analysis: Analysis) -> Iterator[Measurement]:
    """C11: pairs of a method without and one with calibration data, alike in all else."""
    study = analysis.study
    methods = grouped([cell for cell in study.cells if cell.ratio > 0], method_label)
    free = [m for m, cells in methods.items() if not study.needs_data(cells[0].method)]
    informed = [m for m, cells in methods.items() if study.needs_data(cells[0].method)]
    for one, other in product(free, informed):
        numbers = tuple(
            number
            for number in (
                _share("recovers better in", _recovered_pairs(methods[one], methods[other])),
                _share("varies more in", _spread_pairs(methods[one], methods[other])),
            )
            if number
        )
        if numbers:
            cells = (*methods[one], *methods[other])
            yield Measurement(
                scope=f"{one} beside {other}", conditions=conditions_of(cells), numbers=numbers, cells=cells
            )


def _recovered_pairs(one: Sequence[CellRecord], other: Sequence[CellRecord]) -> Iterator[bool]:
    """Whether the first keeps more accuracy after recovery, for each model, ratio, budget and seed that both have."""
    there = {_twin(cell): pair[0] for cell in other if (pair := accuracy_of(cell, MEAN_OF_TASKS))}
    for cell in one:
        pair, beside = accuracy_of(cell, MEAN_OF_TASKS), there.get(_twin(cell))
        if cell.recovery != NO_RECOVERY and pair and beside is not None and pair[0] != beside:
            yield pair[0] > beside


def _spread_pairs(one: Sequence[CellRecord], other: Sequence[CellRecord]) -> Iterator[bool]:
    """Whether the first's log losses vary more over seeds, for each model, ratio, budget and text that both have."""
    spreads = [_spreads(cells) for cells in (one, other)]
    for key in spreads[0].keys() & spreads[1].keys():
        if spreads[0][key] != spreads[1][key]:
            yield spreads[0][key] > spreads[1][key]


def _spreads(cells: Sequence[CellRecord]) -> dict[tuple[object, ...], float]:
    rows = [(_twin(cell)[:-1], loss) for cell in cells for loss in cell.losses]
    losses = grouped(rows, lambda row: (*row[0], row[1].set))
    logs = {key: [float(np.log(loss.loss_nats)) for _, loss in each] for key, each in losses.items()}
    return {key: float(np.var(values)) for key, values in logs.items() if len(values) > 1}


def _twin(cell: CellRecord) -> tuple[object, ...]:
    """What two cells of different methods must share to be compared; the seed is last."""
    return cell.model, cell.ratio, cell.recovery, cell.recovery_tokens, cell.seed


def _share(name: str, outcomes: Iterable[bool]) -> Number | None:
    """The share that is true, with the exact binomial interval that belongs to the sign test."""
    found = list(outcomes)
    if not found:
        return None
    interval = stats.binomtest(sum(found), len(found)).proportion_ci(0.95)
    return Number.within(name, sum(found) / len(found), len(found), (float(interval.low), float(interval.high)))


def _methods(study: Study) -> tuple[str, ...]:
    return tuple(dict.fromkeys(method_label(cell) for cell in study.cells if cell.ratio > 0))
