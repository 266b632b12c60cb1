"""Schedules are what they say: exact times for constant arrivals, the Poisson law for Poisson arrivals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from loadtest.arrivals import Arrivals, arrival_times_s


@pytest.mark.parametrize(
    ("rate_per_s", "duration_s", "expected"),
    [
        pytest.param(4, 1, (0, 0.25, 0.5, 0.75), id="the end itself is outside"),
        pytest.param(4, 1.01, (0, 0.25, 0.5, 0.75, 1.0), id="a time before the end is inside"),
        pytest.param(0.5, 1, (0,), id="a rate below one still sends at the start"),
        pytest.param(10, 0.3, (0, 0.1, 0.2), id="rounding of rate x duration adds no request"),
    ],
)
def test_constant_arrivals_are_multiples_of_the_gap(
    rate_per_s: float, duration_s: float, expected: tuple[float, ...]
) -> None:
    assert arrival_times_s("constant", rate_per_s, duration_s, (1,)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "poisson"])
@pytest.mark.parametrize(("rate_per_s", "duration_s"), [(3.0, 0.1), (7.3, 11.0), (200.0, 5.0)])
def test_times_ascend_inside_the_duration(kind: Arrivals, rate_per_s: float, duration_s: float) -> None:
    times = arrival_times_s(kind, rate_per_s, duration_s, (0, 1))
    assert list(times) == sorted(times)
    assert all(0 <= t < duration_s for t in times)


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    first, again, other = (arrival_times_s("poisson", 50, 2, seed) for seed in ((7, 0), (7, 0), (7, 1)))
    assert first == again
    assert first != other


def test_poisson_gaps_are_exponential_with_the_mean_of_one_over_the_rate() -> None:
    times = arrival_times_s("poisson", 40, 500, (3,))
    gaps = np.diff(times)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 40)).pvalue > 0.01
    assert np.mean(gaps) == pytest.approx(1 / 40, rel=0.03)


def test_poisson_counts_vary_as_poisson_counts_do() -> None:
    counts = [len(arrival_times_s("poisson", 20, 2, (seed,))) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(40, rel=0.03)
    assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=0.25)  # index of dispersion


def test_counts_in_disjoint_halves_are_uncorrelated() -> None:
    halves = [
        [sum(t < 1 for t in times), sum(t >= 1 for t in times)]
        for times in (arrival_times_s("poisson", 30, 2, (seed,)) for seed in range(400))
    ]
    assert abs(float(np.corrcoef(np.array(halves).T)[0, 1])) < 0.15


def test_a_duration_longer_than_one_draw_has_no_hole() -> None:
    times = arrival_times_s("poisson", 1000, 20, (11,))
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.05
    assert times[-1] > 19.9
