"""How much faster is one model than the other, and how sure is that? One ratio per block, paired, on the log scale.

The unit of replication is the block: requests within a block share the machine's state of that minute and are no
independent evidence. Both arms of a block had the same schedule and prompts, so what they share cancels in the ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from artifacts.measures import e2e_s, totals_in_windows, tpot_s, ttft_s
from artifacts.run import Comparison, Estimate, RequestRecord, Window

RESAMPLES = 10_000
CONFIDENCE = 0.95
_SEED = 20_260

_LATENCIES: dict[str, Callable[[RequestRecord], Sequence[float]]] = {
    "speedup_tpot_p50": tpot_s,
    "speedup_ttft_p50": ttft_s,
    "speedup_e2e_p50": e2e_s,
}
_THROUGHPUT = "speedup_output_tokens_per_s"

SPEEDUPS: tuple[str, ...] = (_THROUGHPUT, *_LATENCIES)
"""Each is above 1 where the model is faster than its reference."""


def block_speeds(records: Sequence[RequestRecord], window: Window) -> dict[str, float]:
    """The speeds (per second) of one arm in one block, by SPEEDUPS; what could not be measured is left out.

    Throughput over the window; for the latencies one over the median of the successful requests that started in it.
    """
    speeds: dict[str, float] = {}
    throughput = totals_in_windows(records, [(window.start_s, window.end_s)])["output_tokens_per_s"]
    if throughput:
        speeds[_THROUGHPUT] = throughput
    counted = [r for r in records if r.ok and not r.warmup]
    for name, latency_s in _LATENCIES.items():
        values = [v for r in counted for v in latency_s(r)]
        if values and (median := float(np.median(values))) > 0:
            speeds[name] = 1 / median
    return speeds


def compare(
    names: tuple[str, str], model: Sequence[dict[str, float]], against: Sequence[dict[str, float]]
) -> Comparison:
    """`names` are (model, against); the sequences hold `block_speeds` per block. Blocks without a pair are left out."""
    block_ratios = {
        speed: tuple(m[speed] / a[speed] for m, a in zip(model, against, strict=True) if speed in m and speed in a)
        for speed in SPEEDUPS
    }
    return Comparison(
        model=names[0],
        against=names[1],
        ratios={speed: estimate_ratio(ratios) for speed, ratios in block_ratios.items() if ratios},
        block_ratios={speed: ratios for speed, ratios in block_ratios.items() if ratios},
    )


def estimate_ratio(ratios: Sequence[float]) -> Estimate:
    """Geometric mean of the blocks' ratios with a 95 % interval; with fewer than two blocks there is none.

    Two intervals are computed on the logarithms, the percentile block bootstrap (10,000 resamples, fixed seed) and
    Student's t for paired observations, and the wider one is published: the bootstrap is too narrow for few blocks,
    t is too narrow where single blocks stand far out.
    """
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    centre = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Estimate(value=centre, n=len(logs), confidence=CONFIDENCE)
    low, high = max(_bootstrap(logs), _student(logs), key=lambda interval: interval[1] - interval[0])
    return Estimate(value=centre, low=float(np.exp(low)), high=float(np.exp(high)), n=len(logs), confidence=CONFIDENCE)


def _bootstrap(logs: NDArray[np.float64]) -> tuple[float, float]:
    picks = np.random.default_rng(_SEED).integers(len(logs), size=(RESAMPLES, len(logs)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(logs[picks].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def _student(logs: NDArray[np.float64]) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return float(logs.mean()) - half, float(logs.mean()) + half
