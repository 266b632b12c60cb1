"""Numbers for the claims about speed, in the paper's mode (forward passes) and in serving, level by level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
from scipy import stats

from artifacts.study import CellRecord
from laws.claims.claim import NO_ENDS, Measurement, Number
from laws.claims.evidence import conditions_of, grouped, is_highest
from laws.fits.bootstrap import expanded_interval, mean_interval
from laws.forms import BILLION, Array
from laws.normal import share_half_width
from laws.studies.comparison import Analysis
from laws.studies.records import MEAN_OF_TASKS, accuracy_of, shape_key
from laws.studies.speeds import SpeedPoint, speed_points

LARGE = 10 * BILLION
"""The paper's large model has 14 billion parameters; what has fewer than this cannot stand for it."""
SMALL = 8.5 * BILLION
"""Up to 7 billion, with the models that are called so."""
_LEAST_SIZES = 4
_UPPER_HALF = (0.5, 0.9)
_REPLICATES = 2000


def highest_gain(analysis: Analysis) -> Iterator[Measurement]:
    """C5: the largest model's speed-up at r = 0.9."""
    for scope, points in _levels(analysis):
        largest = max(point.base_params for point in points)
        at = [point for point in points if point.base_params == largest and is_highest(point.cell.ratio)]
        if not at:
            continue
        numbers = (_speedup("speed-up", at[0]), _saved("time saved", at[0]))
        reason = None
        if largest < LARGE:
            reason = f"It is about a model of 14 billion parameters; the largest here has {largest / BILLION:.3g}."
        yield _measurement(scope, at, numbers, reason)


def small_models(analysis: Analysis) -> Iterator[Measurement]:
    """C6: the largest speed-up of any model of up to 7 billion parameters, at any ratio."""
    for scope, points in _levels(analysis):
        small = [point for point in points if point.base_params <= SMALL]
        if not any(is_highest(point.cell.ratio) for point in small):
            continue
        best = max(small, key=lambda point: point.at.speedup)
        ratio = Number(name="r of the largest speed-up", value=best.cell.ratio, n=1)
        yield _measurement(scope, small, (_speedup("largest speed-up", best), ratio))


def time_saved(analysis: Analysis) -> Iterator[Measurement]:
    """C7: the time saved at r from 0.5 to 0.9, averaged over models."""
    low, high = _UPPER_HALF
    for scope, points in _levels(analysis):
        within = [point for point in points if low - 1e-9 <= point.cell.ratio <= high + 1e-9]
        if not within:
            continue
        saved = [point.time_saved for point in within]
        mean, lower, upper = mean_interval(np.array(saved))
        ends = (
            Number(name="least", value=min(saved), n=len(saved)),
            Number(name="most", value=max(saved), n=len(saved)),
        )
        headline = Number(name="mean time saved", value=mean, low=lower, high=upper, n=len(saved))
        yield _measurement(scope, within, (headline, *ends))


def larger_gain_more(analysis: Analysis) -> Iterator[Measurement]:
    """C8: the rank correlation of size and speed-up at each ratio, averaged over ratios."""
    for scope, points in _levels(analysis):
        by_model = grouped(points, lambda point: point.cell.model)
        shared = set.intersection(*({p.cell.ratio for p in each} for each in by_model.values()))
        sizes = np.array([each[0].base_params for each in by_model.values()], dtype=float)
        if len(sizes) < _LEAST_SIZES or not shared:
            reason = f"It needs at least {_LEAST_SIZES} sizes at the same ratios; here are {len(sizes)}."
            yield _measurement(scope, points, (), reason)
            continue
        table = np.array(
            [[_at_ratio(each, ratio).at.speedup for ratio in sorted(shared)] for each in by_model.values()]
        )
        drawn = np.random.default_rng(0).integers(len(sizes), size=(_REPLICATES, len(sizes)))
        enough = [rows for rows in drawn if len(np.unique(rows)) >= _LEAST_SIZES - 1]
        low, high = expanded_interval(
            np.array([_mean_rank_correlation(sizes[rows], table[rows]) for rows in enough]), len(sizes)
        )
        ends = (max(-1.0, float(low)), min(1.0, float(high)))
        value = _mean_rank_correlation(sizes, table)
        yield _measurement(scope, points, (Number.within("rank correlation", value, len(sizes), ends),))


def _mean_rank_correlation(sizes: Array, table: Array) -> float:
    """Spearman's, of each column of `table` with `sizes`, averaged."""
    ranks = stats.rankdata(sizes)
    columns = stats.rankdata(table, axis=0)
    off = columns - columns.mean(axis=0)
    own = ranks - ranks.mean()
    scale = np.sqrt((own @ own) * np.sum(off**2, axis=0))
    return float(np.mean(np.divide(own @ off, scale, out=np.zeros_like(scale), where=scale > 0)))


def quality_adjusted(analysis: Analysis) -> Iterator[Measurement]:
    """C9: speed-up times the share of accuracy that is kept, at r = 0.9, after the most recovery there is."""
    for scope, points in _levels(analysis):
        for point in points:
            kept = kept_share(analysis, point)
            if is_highest(point.cell.ratio) and kept is not None:
                name = f"{point.cell.model} {scope[2]} · {scope[1]}"
                numbers = (_adjusted(point, kept), _speedup("speed-up", point), kept)
                yield _measurement((scope[0], scope[1], name), [point], numbers)


def kept_share(analysis: Analysis, point: SpeedPoint) -> Number | None:
    """The shape's accuracy over the dense model's, mean over seeds, at its largest budget; from n questions."""
    alike = [c for c in analysis.study.cells if shape_key(c) == shape_key(point.cell) and c.accuracies]
    if not alike:
        return None
    most = max(cell.recovery_tokens for cell in alike)
    cells = [cell for cell in alike if cell.recovery_tokens == most]
    pairs = [pair for cell in cells if (pair := accuracy_of(cell, MEAN_OF_TASKS))]
    share = fmean(pair[0] / pair[1] for pair in pairs)
    accuracy, base = fmean(pair[0] for pair in pairs), pairs[0][1]
    items = sum(row.items for row in cells[0].accuracies)
    half = share_half_width(accuracy, items) / base
    name = f"accuracy kept with {most / 1e6:g} M tokens of recovery"
    return Number.within(name, share, items, (max(0.0, share - half), share + half))


def _adjusted(point: SpeedPoint, kept: Number) -> Number:
    """The product; the two intervals are added in quadrature, in logarithms."""
    value, ends = point.at.speedup * kept.value, NO_ENDS
    if point.at.low and point.at.high and kept.low and kept.high:
        half = 0.5 * float(np.hypot(np.log(point.at.high / point.at.low), np.log(kept.high / kept.low)))
        ends = (value * float(np.exp(-half)), value * float(np.exp(half)))
    return Number.within("quality-adjusted speed-up", value, point.at.pairs, ends)


def _levels(analysis: Analysis) -> Iterator[tuple[tuple[str, str, str], list[SpeedPoint]]]:
    """(mode, level, method) with its points."""
    points = grouped(speed_points(analysis.study), lambda point: (point.at.mode, point.at.level, point.method))
    yield from points.items()


def _at_ratio(points: Sequence[SpeedPoint], ratio: float) -> SpeedPoint:
    return next(point for point in points if point.cell.ratio == ratio)


def _speedup(name: str, point: SpeedPoint) -> Number:
    at = point.at
    return Number(name=name, value=at.speedup, low=at.low, high=at.high, unit="×", n=at.pairs)


def _saved(name: str, point: SpeedPoint) -> Number:
    low, high = (None if bound is None else 1 - 1 / bound for bound in (point.at.low, point.at.high))
    return Number(name=name, value=point.time_saved, low=low, high=high, n=point.at.pairs)


def _measurement(
    scope: tuple[str, str, str], points: Sequence[SpeedPoint], numbers: Sequence[Number], reason: str | None = None
) -> Measurement:
    mode, level, method = scope
    cells: tuple[CellRecord, ...] = tuple(point.cell for point in points)
    return Measurement(
        scope=f"{method} · {level}" if level not in method else method,
        conditions=f"{conditions_of(cells)}; {points[0].at.quantity}",
        numbers=tuple(numbers),
        cells=cells,
        mode="paper" if mode == "paper" else "serving",
        untestable=reason,
    )
