"""Both intervals are what the textbooks say, keep their promise on small samples, and the wider one is published."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from loadtest.intervals import bca_interval, mean_intervals, published, student_interval, student_p_value
from loadtest.pairing import block_spread, estimate_ratio

Draw = Callable[[np.random.Generator, int], np.ndarray]


def test_student_by_hand() -> None:
    """1, 2, 3, 4: mean 2.5, s = 1.29099, t(0.975, 3) = 3.18245."""
    interval = student_interval(np.array([1.0, 2.0, 3.0, 4.0]), 0.95)
    half = 3.182446305 * 1.2909944487 / 2
    assert (interval.low, interval.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_the_p_value_and_the_interval_are_one_test() -> None:
    """The interval of confidence 1 - p ends exactly at 0."""
    sample = np.array([0.02, 0.05, -0.01, 0.03, 0.04, 0.01])
    p = student_p_value(sample)
    assert p is not None
    assert student_interval(sample, 1 - p).low == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3, 0.3]], ids=["none", "one", "equal ones"])
def test_no_p_value_where_nothing_varies(values: list[float]) -> None:
    assert student_p_value(np.array(values)) is None


def test_bca_leans_to_the_long_tail() -> None:
    """Skewed to the right: the bootstrap's upper half is the longer one, Student's halves are equal."""
    sample = np.array([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 3.0])
    bca = bca_interval(sample, 0.95)
    assert bca.high - sample.mean() > 1.5 * (sample.mean() - bca.low)


def test_bca_of_many_normal_values_is_students() -> None:
    sample = np.random.default_rng(3).normal(1.0, 0.2, 200)
    bca, student = bca_interval(sample, 0.95), student_interval(sample, 0.95)
    assert bca.low == pytest.approx(student.low, abs=0.003)
    assert bca.high == pytest.approx(student.high, abs=0.003)


def test_equal_values_have_no_width_and_too_few_none() -> None:
    assert all(i.width == pytest.approx(0) for i in mean_intervals(np.array([0.5] * 4), 0.95))
    assert mean_intervals(np.array([0.5]), 0.95) == ()
    assert published(()) is None


def test_both_intervals_are_kept_and_the_wider_is_named() -> None:
    estimate = estimate_ratio([1.1, 1.2, 1.15, 0.9, 1.3, 1.0])
    widths = {i.method: math.log(i.high / i.low) for i in estimate.intervals}
    assert set(widths) == {"paired_t", "bca_bootstrap"}
    assert estimate.published == max(widths, key=lambda method: widths[method])
    chosen = next(i for i in estimate.intervals if i.method == estimate.published)
    assert (estimate.low, estimate.high) == (chosen.low, chosen.high)


def test_more_confidence_is_wider() -> None:
    ratios = [1.1, 1.2, 1.15, 0.9, 1.3, 1.0]
    narrow, wide = estimate_ratio(ratios, 0.9), estimate_ratio(ratios, 0.99)
    assert None not in (narrow.low, wide.low)
    assert (wide.low or 0) < (narrow.low or 0) < (narrow.high or 0) < (wide.high or 0)


def test_the_spread_is_of_the_logarithms() -> None:
    assert block_spread([math.exp(0.1), math.exp(-0.1)]) == pytest.approx(0.1 * math.sqrt(2))
    assert block_spread([1.0]) is None


def shifted_exponential(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.exponential(1.0, n) - 1.0


COVERAGE: list[tuple[str, Draw, int, float]] = [
    ("normal", lambda g, n: g.normal(0, 1, n), 8, 0.93),
    ("heavy-tailed, t(3)", lambda g, n: g.standard_t(3, n), 8, 0.93),
    ("a tenth of the blocks disturbed", lambda g, n: g.normal(0, 1, n) * np.where(g.random(n) < 0.1, 5, 1), 8, 0.93),
    ("skewed, exponential: why 8 blocks are not many", shifted_exponential, 8, 0.86),
]


@pytest.mark.parametrize(("what", "draw", "blocks", "least"), COVERAGE, ids=[what for what, *_ in COVERAGE])
def test_the_published_interval_covers(what: str, draw: Draw, blocks: int, least: float) -> None:
    """400 samples each; the recorded study has thousands. `least` is the promise less two binomial deviations."""
    generator, covered = np.random.default_rng(5), 0
    for _ in range(400):
        sample = draw(generator, blocks)
        wider = published((student_interval(sample, 0.95), bca_interval(sample, 0.95, resamples=499)))
        assert wider is not None
        covered += wider.low <= 0 <= wider.high
    assert covered / 400 >= least - 2 * math.sqrt(least * (1 - least) / 400)
