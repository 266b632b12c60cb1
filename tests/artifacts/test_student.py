"""Student's half-width, against his own table and against scipy's interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from artifacts.student import half_width


@pytest.mark.parametrize(("confidence", "t"), [(0.90, 2.132), (0.95, 2.776), (0.99, 4.604)])
def test_five_values_have_the_tables_width(confidence: float, t: float) -> None:
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0], confidence) == pytest.approx(t * (2.5 / 5) ** 0.5, abs=5e-4)


def test_it_is_half_of_scipys_interval_of_the_mean() -> None:
    sample = np.random.default_rng(0).normal(3.0, 2.0, 12)
    low, high = stats.t.interval(0.95, 11, sample.mean(), stats.sem(sample))
    assert half_width(sample) == pytest.approx((high - low) / 2)
    assert half_width(sample * 10) == pytest.approx(10 * half_width(sample))
