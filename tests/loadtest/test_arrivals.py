"""Schedules are what they say: exact times for regular arrivals, the laws of their gaps for drawn ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from artifacts.arrivals import Constant, Gamma, Poisson, Ramp, Step, Steps
from loadtest.arrivals import Scheduled, arrival_times_s

STEPS = (Step(rate_per_s=2, for_s=1), Step(rate_per_s=0, for_s=1), Step(rate_per_s=4, for_s=1))
EVERY: list[Scheduled] = [
    Constant(rate_per_s=7.3),
    Poisson(rate_per_s=7.3),
    Gamma(rate_per_s=7.3, burstiness=0.3),
    Gamma(rate_per_s=7.3, burstiness=5),
    Steps(steps=STEPS),
    Steps(steps=STEPS, spacing="gamma", burstiness=0.5),
    Ramp(from_rate_per_s=1, to_rate_per_s=9),
    Ramp(from_rate_per_s=9, to_rate_per_s=0, spacing="constant"),
]


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
    assert arrival_times_s(Constant(rate_per_s=rate_per_s), duration_s, (1,)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arrivals", "duration_s", "lead_in_s", "expected"),
    [
        pytest.param(
            Steps(steps=STEPS, spacing="constant"),
            3,
            0,
            (0, 0.5, 2, 2.25, 2.5, 2.75),
            id="a request that is due in a pause comes after it",
        ),
        pytest.param(
            Steps(steps=STEPS[:1], spacing="constant"), 2, 0, (0, 0.5, 1, 1.5), id="the last step's rate holds"
        ),
        pytest.param(
            Steps(steps=(STEPS[2], STEPS[0]), spacing="constant"),
            3,
            1,
            (*(k / 4 for k in range(8)), 2, 2.5),
            id="the first step's rate holds in the lead-in",
        ),
        pytest.param(
            Ramp(from_rate_per_s=0, to_rate_per_s=8, spacing="constant"),
            2,
            0,
            tuple(np.sqrt(np.arange(8) / 2)),
            id="from zero the k-th request is at the root of k over two",
        ),
        pytest.param(
            Ramp(from_rate_per_s=4, to_rate_per_s=0, spacing="constant"),
            2,
            0,
            tuple(2 - np.sqrt(4 - np.arange(4))),
            id="towards zero it is the mirror image",
        ),
        pytest.param(
            Ramp(from_rate_per_s=2, to_rate_per_s=2, spacing="constant"), 2, 1, (0, 0.5, 1, 1.5), id="a level ramp"
        ),
    ],
)
def test_regular_requests_follow_the_rate(
    arrivals: Scheduled, duration_s: float, lead_in_s: float, expected: tuple[float, ...]
) -> None:
    assert arrival_times_s(arrivals, duration_s, (1,), lead_in_s) == pytest.approx(expected)


@pytest.mark.parametrize("arrivals", EVERY, ids=lambda arrivals: arrivals.label)
@pytest.mark.parametrize(("duration_s", "lead_in_s"), [(0.05, 0.0), (3.0, 0.0), (11.0, 2.5)])
def test_times_ascend_inside_the_duration(arrivals: Scheduled, duration_s: float, lead_in_s: float) -> None:
    for seed in range(20):
        times = arrival_times_s(arrivals, duration_s, (0, seed), lead_in_s)
        assert list(times) == sorted(times)
        assert all(0 <= t < duration_s for t in times)
        assert times == arrival_times_s(arrivals, duration_s, (0, seed), lead_in_s)


@pytest.mark.parametrize("arrivals", [a for a in EVERY if "constant" not in a.label], ids=lambda a: a.label)
def test_another_seed_gives_other_times(arrivals: Scheduled) -> None:
    assert arrival_times_s(arrivals, 10, (7, 0)) != arrival_times_s(arrivals, 10, (7, 1))


@pytest.mark.parametrize("seed", range(5))
def test_poisson_gaps_are_exponential_with_the_mean_of_one_over_the_rate(seed: int) -> None:
    gaps = np.diff(arrival_times_s(Poisson(rate_per_s=40), 500, (3, seed)))
    assert stats.kstest(gaps, "expon", args=(0, 1 / 40)).pvalue > 0.01
    assert np.mean(gaps) == pytest.approx(1 / 40, rel=0.03)
    assert stats.kstest(gaps, "uniform", args=(0, 2 / 40)).pvalue < 1e-6  # the test can tell


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 4.0])
def test_gamma_gaps_have_the_shape_of_the_burstiness(burstiness: float) -> None:
    gaps = np.diff(arrival_times_s(Gamma(rate_per_s=40, burstiness=burstiness), 500, (5,)))
    assert stats.kstest(gaps, "gamma", args=(burstiness, 0, 1 / (40 * burstiness))).pvalue > 0.01
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.06)
    assert np.mean(gaps) == pytest.approx(1 / 40, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.2, 1.0, 8.0])
def test_bursts_begin_at_no_particular_moment(burstiness: float) -> None:
    """The count is rate x duration on average from the first second: had a request just come, it would be too high
    for bursts (by 2 of 20 at 0.2) and too low for smooth traffic (by 0.44 of 20 at 8)."""
    counts = [len(arrival_times_s(Gamma(rate_per_s=20, burstiness=burstiness), 1, (9, seed))) for seed in range(1500)]
    error = np.std(counts) / len(counts) ** 0.5
    assert abs(np.mean(counts) - 20) < 3 * error
    assert burstiness == 1 or 3 * error < abs(1 / burstiness - 1) / 2  # the test can tell


def test_poisson_counts_vary_as_poisson_counts_do() -> None:
    counts = [len(arrival_times_s(Poisson(rate_per_s=20), 2, (seed,))) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(40, rel=0.03)
    assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=0.25)  # index of dispersion


def test_counts_in_disjoint_halves_are_uncorrelated() -> None:
    halves = [
        [sum(t < 1 for t in times), sum(t >= 1 for t in times)]
        for times in (arrival_times_s(Poisson(rate_per_s=30), 2, (seed,)) for seed in range(400))
    ]
    assert abs(float(np.corrcoef(np.array(halves).T)[0, 1])) < 0.15


def test_a_poisson_ramp_puts_its_requests_where_the_rate_is() -> None:
    """Given their number, the times of an inhomogeneous Poisson process are independent draws from the rate's shape."""
    times = np.array(arrival_times_s(Ramp(from_rate_per_s=0, to_rate_per_s=200), 50, (2,)))
    assert len(times) == pytest.approx(5000, abs=4 * 5000**0.5)
    assert stats.kstest((times / 50) ** 2, "uniform").pvalue > 0.01
    assert stats.kstest(times / 50, "uniform").pvalue < 1e-6


def test_each_step_has_its_own_rate() -> None:
    steps = (Step(rate_per_s=10, for_s=100), Step(rate_per_s=40, for_s=50), Step(rate_per_s=0, for_s=20))
    times = np.array(arrival_times_s(Steps(steps=steps), 171, (4,), 1))
    edges = [1, 101, 151, 171]
    counts = [int(((times >= a) & (times < b)).sum()) for a, b in itertools.pairwise(edges)]
    for count, expected in zip(counts, (1000, 2000, 0), strict=True):
        assert abs(count - expected) <= 4 * expected**0.5
    gaps = np.diff(times[(times >= 101) & (times < 151)])
    assert stats.kstest(gaps, "expon", args=(0, 1 / 40)).pvalue > 0.01


@pytest.mark.parametrize("arrivals", [Poisson(rate_per_s=1000), Gamma(rate_per_s=1000, burstiness=0.5)])
def test_a_long_duration_has_no_hole(arrivals: Scheduled) -> None:
    times = arrival_times_s(arrivals, 20, (11,))
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.05
    assert times[-1] > 19.9


def test_a_rate_far_below_one_request_mostly_sends_nothing() -> None:
    counts = [len(arrival_times_s(Poisson(rate_per_s=0.05), 1, (seed,))) for seed in range(1000)]
    assert set(counts) <= {0, 1, 2}
    assert sum(counts) == pytest.approx(50, abs=25)
