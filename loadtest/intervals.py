"""Between which values does a mean lie? Two answers from few independent observations, and which one to publish.

Student's t assumes normal blocks, and the bootstrap many of them; neither holds for eight blocks on a shared machine.
So both are kept, and the wider is published, which mostly is Student's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from artifacts.student import half_width

RESAMPLES = 10_000
_SEED = 20_260

Method = Literal["paired_t", "bca_bootstrap"]
Sample = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeanInterval:
    method: Method
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


def student_interval(sample: Sample, confidence: float) -> MeanInterval:
    """Mean plus or minus t(n - 1) s / sqrt(n) (Student, Biometrika 1908). Needs two values."""
    half = half_width(sample, confidence)
    return MeanInterval("paired_t", float(sample.mean()) - half, float(sample.mean()) + half)


def bca_interval(sample: Sample, confidence: float, resamples: int = RESAMPLES) -> MeanInterval:
    """The bias-corrected and accelerated bootstrap of the mean (Efron, JASA 1987), with a fixed seed. Needs two values.

    Equal values have an interval of no width: a bootstrap of them is not defined.
    """
    mean = float(sample.mean())
    if float(np.ptp(sample)) <= 1e-12 * max(1.0, abs(mean)):
        return MeanInterval("bca_bootstrap", mean, mean)
    found = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return MeanInterval("bca_bootstrap", float(found.low), float(found.high))


def mean_intervals(sample: Sample, confidence: float) -> tuple[MeanInterval, ...]:
    """Both; none for fewer than two values."""
    if len(sample) < 2:
        return ()
    return student_interval(sample, confidence), bca_interval(sample, confidence)


def published(intervals: tuple[MeanInterval, ...]) -> MeanInterval | None:
    """The wider one, or None where there is none."""
    return max(intervals, key=lambda interval: interval.width, default=None)


def student_p_value(sample: Sample) -> float | None:
    """Two-sided, of a mean of 0; None for fewer than two values or values that do not differ."""
    if len(sample) < 2 or float(np.ptp(sample)) <= 1e-12 * max(1.0, abs(float(sample.mean()))):
        return None
    t = abs(float(sample.mean())) / (float(sample.std(ddof=1)) / np.sqrt(len(sample)))
    return float(2 * stats.t.sf(t, len(sample) - 1))
