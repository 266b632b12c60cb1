"""Was the load steady while it was measured? Trends inside the windows, and the balance that Little's law demands.

A window that still warms up, or a queue that grows as long as the load lasts, has no mean: a longer window would give
another number. Blocks are the replications: what a trend is, all windows of an arm show at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.measures import ttft_s
from artifacts.run import LittlesLaw, RequestRecord, Steadiness, Window
from artifacts.student import half_width

BATCH = 5
SURE = 0.99
_MIN_BATCHES = 4
MIN_BLOCKS = 4
_NO_STEADY_PART = 0.4
_LARGE = 0.4

Series = NDArray[np.float64]


def mser5_cut(values: Sequence[float]) -> float:
    """The share of a series that MSER-5 would cut off at its beginning, from 0 to a half; 0 for under 20 values.

    White, Cobb & Spratt (Winter Simulation Conference 2000): over means of 5 values, the cut d that minimises
    sum((y - mean)^2 for y after d) / (n - d)^2, in the first half. An optimum at its end means that no steady part was
    found.
    """
    means = _batch_means(np.asarray(values, dtype=np.float64))
    count = len(means)
    if count < _MIN_BATCHES:
        return 0.0
    errors = [float(means[d:].var()) / (count - d) for d in range(count // 2 + 1)]
    return int(np.argmin(errors)) / count


def _batch_means(values: Series) -> Series:
    whole = len(values) // BATCH * BATCH
    means: Series = values[:whole].reshape(-1, BATCH).mean(axis=1)
    return means


def sure_part(differences: Sequence[float], confidence: float = SURE) -> float:
    """How far the mean of independent differences surely is from 0: its size less the half-width of its t interval.

    At least 0, and 0 for fewer than two differences.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if len(sample) < 2:
        return 0.0
    return max(0.0, float(abs(sample.mean())) - half_width(sample, confidence))


def steadiness(records: Sequence[RequestRecord], windows: Sequence[Window]) -> tuple[Steadiness, ...]:
    """For each arm the drift of TTFT and of the requests in flight; signals of which nothing was seen are left out."""
    arms = sorted({w.arm for w in windows})
    found = []
    for arm in arms:
        mine = sorted((w for w in windows if w.arm == arm), key=lambda w: w.block)
        of_block = {w.block: [r for r in records if (r.arm, r.block) == (arm, w.block)] for w in mine}
        first = [_ttft_by_phase(of_block[w.block], w) for w in mine]
        flying = [_in_flight_by_phase(of_block[w.block], w) for w in mine]
        found += [s for s in (_drift(arm, "ttft", first), _drift(arm, "in_flight", flying)) if s is not None]
    return tuple(found)


def _drift(arm: int, signal: str, windows: Sequence[tuple[Series, Series]]) -> Steadiness | None:
    """`windows`: (phase from 0 to 1, value) pairs of each block."""
    differences = [d for phase, value in windows if (d := _half_difference(phase, value)) is not None]
    if not differences:
        return None
    phases = np.concatenate([phase for phase, _ in windows])
    values = np.concatenate([value for _, value in windows])[np.argsort(phases, kind="stable")]
    drift, cut = float(np.mean(differences)), mser5_cut(values.tolist())
    # Too few replications to tell a trend from chance: then only a large one without a steady part counts.
    alone = max(0.0, abs(drift) - _LARGE) if cut >= _NO_STEADY_PART else 0.0
    return Steadiness(
        arm=arm,
        signal="ttft" if signal == "ttft" else "in_flight",
        drift=drift,
        sure=sure_part(differences) if len(differences) >= MIN_BLOCKS else alone,
        cut=cut,
        blocks=len(differences),
    )


def _half_difference(phase: Series, value: Series) -> float | None:
    early, late = value[phase < 0.5], value[phase >= 0.5]
    if not len(early) or not len(late) or early.mean() <= 0 or late.mean() <= 0:
        return None
    return float(np.log(late.mean() / early.mean()))


def _ttft_by_phase(records: Sequence[RequestRecord], window: Window) -> tuple[Series, Series]:
    counted = sorted((r.scheduled_s, v) for r in records if r.ok and not r.warmup for v in ttft_s(r))
    times = np.array([t for t, _ in counted], dtype=np.float64)
    return (times - window.start_s) / (window.end_s - window.start_s), np.array([v for _, v in counted])


def _in_flight_by_phase(records: Sequence[RequestRecord], window: Window) -> tuple[Series, Series]:
    """Sampled at the middles of 40 equal parts of the window."""
    phase = (np.arange(40) + 0.5) / 40
    spans = [(r.scheduled_s, r.done_s) for r in records if r.done_s is not None]
    begins, ends = np.sort([b for b, _ in spans]), np.sort([e for _, e in spans])
    at = window.start_s + phase * (window.end_s - window.start_s)
    inside = np.searchsorted(begins, at, side="right") - np.searchsorted(ends, at, side="right")
    return phase, inside.astype(np.float64)


def littles_law(records: Sequence[RequestRecord], windows: Sequence[Window]) -> tuple[LittlesLaw, ...]:
    """L, lambda and W of each window, all from the records.

    L is requests under way integrated over the window, lambda those due in it per second, W their mean time from then
    until they were done (Little, Operations Research 1961). Failed requests are under way as well; what never ended is
    not counted.
    """
    return tuple(_balance([r for r in records if (r.arm, r.block) == (w.arm, w.block)], w) for w in windows)


def mean_residual(balances: Sequence[LittlesLaw]) -> float:
    """How far the mean residual of one arm's blocks surely is from 0; below four blocks simply how far it is."""
    residuals = [b.residual for b in balances]
    return sure_part(residuals) if len(residuals) >= MIN_BLOCKS else abs(float(np.mean(residuals)))


def _balance(records: Sequence[RequestRecord], window: Window) -> LittlesLaw:
    length_s = window.end_s - window.start_s
    spans = [(r.scheduled_s, r.done_s) for r in records if r.done_s is not None]
    overlap_s = sum(max(0.0, min(end, window.end_s) - max(begin, window.start_s)) for begin, end in spans)
    sojourns = [end - begin for begin, end in spans if window.start_s <= begin < window.end_s]
    return LittlesLaw(
        arm=window.arm,
        block=window.block,
        in_flight=overlap_s / length_s,
        arrivals_per_s=len(sojourns) / length_s,
        sojourn_s=float(np.mean(sojourns)) if sojourns else 0.0,
    )
