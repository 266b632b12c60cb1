"""How sure is a parameter? Intervals from resampled clusters, widened as few clusters demand.

A percentile interval of a small sample is too narrow. The expanded percentile interval (Hesterberg, "What Teachers
Should Know About the Bootstrap", 2015) takes outer percentiles such that for a mean it would be Student's interval.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from laws.forms import Array, Floats

CONFIDENCE = 0.95
LEAST_CLUSTERS = 6
"""With fewer, resampling shows next to nothing and no interval is given."""
_ROUNDING = 1e-12


def cluster_weights(clusters: Array, count: int, seed: int) -> Floats:
    """How often each point stands in each of `count` resamples of whole clusters: (count, points)."""
    _, of_point = np.unique(clusters, return_inverse=True)
    different = int(of_point.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(different, np.full(different, 1 / different), size=count)
    return np.asarray(drawn[:, of_point], dtype=float)


def expanded_interval(replicates: Array, clusters: int, parameters: int = 1) -> tuple[Floats, Floats]:
    """Low and high along the first axis, at 95 %; `clusters` beyond `parameters` are the degrees of freedom."""
    freedom = max(1, clusters - parameters)
    outer = np.sqrt(clusters / freedom) * stats.t.ppf((1 - CONFIDENCE) / 2, freedom)
    tail = float(stats.norm.cdf(outer))
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def mean_interval(values: Floats, seed: int = 0, count: int = 2000) -> tuple[float, float | None, float | None]:
    """The mean of independent values and its interval; no interval for fewer than three."""
    mean = float(np.mean(values))
    if len(values) < 3:
        return mean, None, None
    drawn = np.random.default_rng(seed).integers(len(values), size=(count, len(values)))
    low, high = expanded_interval(values[drawn].mean(axis=1), len(values))
    return mean, float(low), float(high)


def r2_against_mean(off: Floats, observed: Floats, weights: Floats) -> Floats:
    """1 - residual over total squares, of each row of `weights`; NaN where all values that a row has are equal."""
    apart = observed - observed[0]
    squares = weights @ apart**2
    spread = squares - (weights @ apart) ** 2 / weights.sum(axis=1)
    tells = spread > _ROUNDING * squares
    return np.asarray(1 - np.divide(weights @ off**2, spread, out=np.full(len(spread), np.nan), where=tells))


def r2_interval(off: Floats, observed: Floats, weights: Floats, clusters: int) -> tuple[float | None, float | None]:
    """Of `r2_against_mean` over resamples; none where no resample has two different values."""
    values = r2_against_mean(off, observed, weights)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    low, high = expanded_interval(values, clusters)
    return float(low), float(high)
