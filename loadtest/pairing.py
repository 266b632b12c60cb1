"""How much faster is one model than the other, and how sure is that? One ratio per block, paired, on the log scale.

The unit of replication is the block: requests within a block share the machine's state of that minute and are no
independent evidence. Both arms of a block had the same schedule and prompts, so what they share cancels in the ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from artifacts.energy import ENERGY_RATIOS
from artifacts.measures import CERTIFYING_SAMPLES, QUANTITIES, e2e_s, totals_in_windows, tpot_s, ttft_s
from artifacts.run import Comparison, Estimate, Interval, RequestRecord, Suppressed, Window
from loadtest.intervals import mean_intervals, published, student_p_value

CONFIDENCE = 0.95

_LATENCIES: dict[str, Callable[[RequestRecord], Sequence[float]]] = {
    "speedup_tpot_p50": tpot_s,
    "speedup_ttft_p50": ttft_s,
    "speedup_e2e_p50": e2e_s,
}
_THROUGHPUT = "speedup_output_tokens_per_s"

SPEEDUPS: tuple[str, ...] = (_THROUGHPUT, *_LATENCIES)
"""Each is above 1 where the model is faster than its reference. On these, verdicts are given."""

TAIL_SPEEDUPS: dict[str, tuple[Callable[[RequestRecord], Sequence[float]], int]] = {
    f"speedup_{name}_p{p}": (of, p) for name, _, of in QUANTITIES for p in CERTIFYING_SAMPLES if p > 50
}
"""Ratios of higher percentiles: suppressed unless every block of both arms certifies the percentile by itself."""


def block_speeds(records: Sequence[RequestRecord], window: Window) -> dict[str, float]:
    """The speeds (per second) of one arm in one block, by SPEEDUPS; what could not be measured is left out.

    Throughput over the window; for the latencies one over the median of the successful requests that started in it,
    and by TAIL_SPEEDUPS one over the percentiles that the block certifies.
    """
    speeds: dict[str, float] = {}
    throughput = totals_in_windows(records, [(window.start_s, window.end_s)])["output_tokens_per_s"]
    if throughput:
        speeds[_THROUGHPUT] = throughput
    counted = [r for r in records if r.ok and not r.warmup]
    wanted = [(name, latency_s, 50, 1) for name, latency_s in _LATENCIES.items()]
    wanted += [(name, of, p, CERTIFYING_SAMPLES[p]) for name, (of, p) in TAIL_SPEEDUPS.items()]
    for name, latency_s, p, needed in wanted:
        values = [v for r in counted for v in latency_s(r)]
        if len(values) >= needed and (value := float(np.percentile(values, p))) > 0:
            speeds[name] = 1 / value
    return speeds


def suppressed_tails(blocks: Sequence[Sequence[RequestRecord]]) -> tuple[Suppressed, ...]:
    """The TAIL_SPEEDUPS that some of `blocks` (of either arm) does not certify, with its number of values."""
    fewest = {
        name: min((sum(len(of(r)) for r in block if r.ok and not r.warmup) for block in blocks), default=0)
        for name, (of, _) in TAIL_SPEEDUPS.items()
    }
    return tuple(
        Suppressed(measure=name, samples=fewest[name], needed=CERTIFYING_SAMPLES[p])
        for name, (_, p) in TAIL_SPEEDUPS.items()
        if fewest[name] < CERTIFYING_SAMPLES[p]
    )


def compare(
    names: tuple[str, str],
    model: Sequence[dict[str, float]],
    against: Sequence[dict[str, float]],
    suppressed: tuple[Suppressed, ...] = (),
) -> Comparison:
    """`names` are (model, against); the sequences hold `block_speeds` per block, tokens per joule with them.

    Blocks without a pair are left out.
    """
    hidden = {s.measure for s in suppressed}
    block_ratios = {
        speed: tuple(m[speed] / a[speed] for m, a in zip(model, against, strict=True) if speed in m and speed in a)
        for speed in (*SPEEDUPS, *TAIL_SPEEDUPS, *ENERGY_RATIOS.values())
        if speed not in hidden
    }
    return Comparison(
        model=names[0],
        against=names[1],
        ratios={speed: estimate_ratio(ratios) for speed, ratios in block_ratios.items() if ratios},
        block_ratios={speed: ratios for speed, ratios in block_ratios.items() if ratios},
        suppressed=suppressed,
    )


def estimate_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Geometric mean of the blocks' ratios with its intervals; with fewer than two blocks there is none.

    The intervals are those of the mean logarithm: Student's t for paired observations and the BCa block bootstrap
    (10,000 resamples, fixed seed). The wider one is published.
    """
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    intervals = mean_intervals(logs, confidence)
    chosen = published(intervals)
    return Estimate(
        value=float(np.exp(logs.mean())),
        low=None if chosen is None else float(np.exp(chosen.low)),
        high=None if chosen is None else float(np.exp(chosen.high)),
        confidence=confidence,
        n=len(logs),
        published=None if chosen is None else chosen.method,
        intervals=tuple(
            Interval(method=i.method, low=float(np.exp(i.low)), high=float(np.exp(i.high))) for i in intervals
        ),
        p_value=student_p_value(logs),
    )


def block_spread(ratios: Sequence[float]) -> float | None:
    """The standard deviation of the logarithms, which decides how many blocks an effect needs; None below two."""
    return float(np.log(np.asarray(ratios, dtype=np.float64)).std(ddof=1)) if len(ratios) > 1 else None
