"""Shares in time: Wilson's interval against scipy's, independent requests in a queue, verdicts, goodput."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from queueing import Queue
from scipy.stats import binomtest, norm

from artifacts.arrivals import Poisson
from artifacts.capacity import Attainment, Verdict
from artifacts.run import RequestRecord, Window
from artifacts.slo import SloLimit, parse_slo
from benchmarks.slo_intervals import waits_s
from loadtest.arrivals import arrival_times_s
from loadtest.attainment import (
    CONFIDENCE,
    attainment,
    effective_count,
    goodput_per_s,
    quantile_of,
    requests_to_show,
    verdict_on,
    wilson,
)

MakeRecord = Callable[..., RequestRecord]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("within", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (38, 40), (990, 1000), (3, 7)])
def test_the_interval_is_wilsons(within: int, count: int, confidence: float) -> None:
    theirs = binomtest(within, count).proportion_ci(confidence, method="wilson")
    ours = wilson(within / count, count, float(norm.ppf((1 + confidence) / 2)))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_request_says_nothing() -> None:
    assert wilson(0.0, 0, 1.96) == (0.0, 1.0)


@pytest.mark.parametrize("looks", [1, 2, 4])
def test_looking_often_does_not_err_more_often(looks: int) -> None:
    """All looks' two-sided errors together are those of one look at the stated confidence."""
    tail = 1 - norm.cdf(quantile_of(looks))
    assert 2 * looks * tail == pytest.approx(1 - CONFIDENCE)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("z", [1.96, 2.5])
def test_as_many_requests_as_it_takes_and_no_more(share: float, z: float) -> None:
    needed = requests_to_show(share, z)
    assert wilson(1.0, needed, z)[0] >= share - 1e-12
    assert wilson(1.0, needed - 1, z)[0] < share


@pytest.mark.parametrize("latencies_s", [[], [1.0], [1.0] * 50, [inf] * 50, [1.0, 3.0] * 50])
def test_requests_without_positive_correlation_count_in_full(latencies_s: list[float]) -> None:
    assert effective_count(latencies_s, 2.0) == pytest.approx(len(latencies_s))


def test_independent_requests_count_about_in_full() -> None:
    generator = np.random.default_rng(1)
    counts = [effective_count(generator.random(400).tolist(), 0.95) / 400 for _ in range(200)]
    assert np.median(counts) > 0.75


@pytest.mark.parametrize("run", [4, 16])
@pytest.mark.parametrize("limit", [0.9, 2.0])
def test_requests_that_are_late_together_count_as_their_groups(run: int, limit: float) -> None:
    """Groups of equal latencies: autocorrelation falls linearly to 0 at the group's length, so tau is that length.

    It is seen in the latencies also where none is late.
    """
    generator = np.random.default_rng(2)
    counts = [effective_count(np.repeat(generator.random(4000 // run), run).tolist(), limit) for _ in range(20)]
    assert np.median(counts) == pytest.approx(4000 / run, rel=0.25)


def test_failures_rank_behind_every_latency() -> None:
    """Independent failures at random places leave the count whole; an outage is one event."""
    generator = np.random.default_rng(4)
    latencies = generator.random(600)
    scattered, outage = latencies.copy(), latencies.copy()
    scattered[generator.choice(600, 60, replace=False)] = inf
    outage[200:260] = inf
    assert effective_count(scattered.tolist(), 2.0) > 300
    assert effective_count(outage.tolist(), 2.0) < 60


@pytest.mark.parametrize("window_s", [10.0, 30.0])
def test_at_the_exact_limit_the_interval_errs_seldom_where_the_plain_one_errs_often(window_s: float) -> None:
    """M/D/4 at the rate whose true share within 150 ms is 90 %: to call that surely met is an error."""
    queue, limit_s, z, runs = Queue(), 0.15, quantile_of(4), 150
    rate = 34.56
    assert queue.share_within(limit_s, rate) == pytest.approx(0.9, abs=0.004)
    plain = ours = 0
    for seed in range(runs):
        arrivals = arrival_times_s(Poisson(rate_per_s=rate), 2 + window_s, (seed, 5))
        waits = np.asarray(waits_s(arrivals, queue.streams, queue.service_s))[np.asarray(arrivals) >= 2]
        latencies_s = (waits + queue.ttft_s).tolist()
        share = float(np.mean(np.asarray(latencies_s) <= limit_s))
        plain += wilson(share, len(latencies_s), z)[0] >= 0.9
        ours += wilson(share, effective_count(latencies_s, limit_s), z)[0] >= 0.9
    assert plain / runs > 0.3
    assert ours / runs < 0.05


def _attained(low: float, high: float, percentile: float) -> Attainment:
    limit = SloLimit(quantity="ttft", percentile=percentile, limit_s=1)
    return Attainment(limit=limit, requests=10, within=9, effective_requests=10, low=low, high=high)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ([(0.96, 0.99)], "met"),
        ([(0.95, 0.99)], "met"),
        ([(0.94, 0.99)], "undecided"),
        ([(0.90, 0.949)], "missed"),
        ([(0.90, 0.95)], "undecided"),
        ([(0.96, 0.99), (0.94, 0.99)], "undecided"),
        ([(0.96, 0.99), (0.10, 0.20)], "missed"),
        ([(0.94, 0.99), (0.10, 0.20)], "missed"),
        ([(0.96, 0.99), (0.97, 1.0)], "met"),
    ],
)
def test_verdicts(bounds: list[tuple[float, float]], verdict: Verdict) -> None:
    assert verdict_on([_attained(low, high, 95) for low, high in bounds]) == verdict


def test_a_percentile_limit_is_a_share(make_record: MakeRecord) -> None:
    """19 of 20 in time is exactly the share of p95; the 95th percentile itself lies between the two slowest."""
    (limit,) = parse_slo("ttft_p95<100ms").limits
    records = [make_record(float(i), event_s=(i + (0.5 if i == 7 else 0.05), i + 0.6)) for i in range(20)]
    found = attainment(limit, [records], 1.96)
    assert (found.requests, found.within, found.share) == (20, 19, 0.95)
    assert (found.low, found.high) == pytest.approx(wilson(0.95, 20, 1.96))


def test_lead_ins_do_not_count_and_looks_add_up(make_record: MakeRecord) -> None:
    (limit,) = parse_slo("ttft_p50<15ms").limits
    look = [make_record(float(i), warmup=i < 3, event_s=(i + 0.01, i + 0.02)) for i in range(10)]
    late = [make_record(float(i)) for i in range(5)]
    found = attainment(limit, [look, late], 1.96)
    assert (found.requests, found.within) == (12, 7)
    assert found.effective_requests == pytest.approx(12)  # each look is constant in itself: no neighbours across looks


def test_nothing_recorded_is_undecided() -> None:
    (limit,) = parse_slo("ttft_p50<15ms").limits
    found = attainment(limit, [[]], 1.96)
    assert (found.requests, found.share, found.low, found.high) == (0, None, 0.0, 1.0)
    assert verdict_on([found]) == "undecided"


def test_goodput_counts_what_is_in_time_per_second_of_window(make_record: MakeRecord) -> None:
    slo = parse_slo("ttft_p95<30ms,e2e_p95<100ms")
    records = [make_record(0.1 * i, warmup=i < 10) for i in range(50)]
    records += [make_record(3.0, error="closed: x"), make_record(3.1, event_s=(3.5, 3.6))]
    windows = [Window(arm=0, block=0, start_s=1, end_s=3), Window(arm=0, block=1, start_s=4, end_s=6)]
    assert goodput_per_s(slo, records, windows) == pytest.approx(40 / 4)
    assert goodput_per_s(slo, records, []) is None
