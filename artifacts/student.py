"""How far may the mean of a few independent values lie from what it estimates?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def half_width(sample: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> float:
    """t(n - 1) s / sqrt(n), in the sample's unit (Student, Biometrika 1908). Needs two values."""
    count = len(sample)
    return float(stats.t.ppf((1 + confidence) / 2, count - 1) * np.std(sample, ddof=1) / np.sqrt(count))
