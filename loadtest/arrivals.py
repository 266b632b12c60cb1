"""When does each request of an open-loop test start? Drawn before the run, so that the server cannot slow the clock.

A generator that waits for answers before it sends (a closed loop) sends less exactly when the server is slow and so
hides the slowness ("coordinated omission"). Here the times are fixed in advance and latency counts from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Arrivals = Literal["constant", "poisson"]


def arrival_times_s(kind: Arrivals, rate_per_s: float, duration_s: float, seed: Sequence[int]) -> tuple[float, ...]:
    """Ascending times in [0, duration_s), the same for the same arguments.

    `constant`: k / rate. `poisson`: exponential gaps with mean 1 / rate, not rescaled to a fixed count, so that counts
    in disjoint spans are independent Poisson variables. `rate_per_s` and `duration_s` are positive.
    """
    if kind == "constant":
        count = int(np.ceil(rate_per_s * duration_s - 1e-9))
        return tuple(float(t) for t in np.arange(count) / rate_per_s)
    return _poisson_times_s(rate_per_s, duration_s, seed)


def _poisson_times_s(rate_per_s: float, duration_s: float, seed: Sequence[int]) -> tuple[float, ...]:
    generator = np.random.default_rng(list(seed))
    expected = rate_per_s * duration_s
    batch = int(expected + 10 * expected**0.5 + 10)  # ten standard deviations: one draw is enough but for freak seeds
    times = np.cumsum(generator.exponential(1 / rate_per_s, batch))
    while times[-1] < duration_s:
        times = np.concatenate([times, times[-1] + np.cumsum(generator.exponential(1 / rate_per_s, batch))])
    return tuple(float(t) for t in times[times < duration_s])
