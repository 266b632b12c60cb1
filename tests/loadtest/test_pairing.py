"""Ratios point the right way, intervals are as wide as they say, and what was not measured has no number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from artifacts.measures import tokens_between, totals_in_windows
from artifacts.run import RequestRecord, Window
from loadtest.pairing import SPEEDUPS, block_speeds, compare, estimate_ratio, suppressed_tails

MakeRecord = Callable[..., RequestRecord]


def test_the_estimate_is_the_geometric_mean() -> None:
    estimate = estimate_ratio([1.0, 4.0, 2.0])
    assert estimate.value == pytest.approx(2.0)
    assert estimate.n == 3


def test_swapping_the_arms_inverts_value_and_interval() -> None:
    ratios = [1.1, 1.3, 1.2, 1.25, 1.18]
    there, back = estimate_ratio(ratios), estimate_ratio([1 / r for r in ratios])
    assert there.low is not None
    assert back.high is not None
    assert back.value == pytest.approx(1 / there.value)
    assert back.high == pytest.approx(1 / there.low, rel=1e-3)  # the bootstrap draws are not mirror images


def test_fewer_than_two_blocks_have_no_interval() -> None:
    estimate = estimate_ratio([1.5])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (pytest.approx(1.5), None, None, 1)


def test_equal_ratios_have_an_interval_of_no_width() -> None:
    estimate = estimate_ratio([1.25] * 6)
    assert (estimate.low, estimate.high) == (pytest.approx(1.25), pytest.approx(1.25))


def test_the_wider_interval_is_published() -> None:
    """For few well-behaved blocks that is Student's t, known in closed form: half-width t(0.975, 3) sd / 2."""
    logs = np.array([0.1, 0.2, 0.3, 0.4])
    estimate = estimate_ratio(list(np.exp(logs)))
    half = 3.182446305 * logs.std(ddof=1) / 2
    assert estimate.low == pytest.approx(math.exp(0.25 - half))
    assert estimate.high == pytest.approx(math.exp(0.25 + half))


def test_the_same_ratios_always_give_the_same_interval() -> None:
    assert estimate_ratio([1.0, 1.2, 0.9, 1.1, 3.0]) == estimate_ratio([1.0, 1.2, 0.9, 1.1, 3.0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        estimate = estimate_ratio(list(np.exp(generator.normal(0.2, 0.1, 8))))
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= math.exp(0.2) <= estimate.high
    assert covered >= 135  # 142 expected; 135 is below the 0.1st percentile of a 95 % interval


def test_speeds_of_a_block_by_hand(make_record: MakeRecord) -> None:
    records = [make_record(0.0), make_record(0.1), make_record(0.2, error="closed: x", output_tokens=None)]
    speeds = block_speeds(records, Window(arm=0, block=0, start_s=0.0, end_s=0.5))
    assert speeds["speedup_output_tokens_per_s"] == pytest.approx(10 / 0.5)
    assert speeds["speedup_tpot_p50"] == pytest.approx(1 / 0.01)
    assert speeds["speedup_ttft_p50"] == pytest.approx(1 / 0.02)
    assert speeds["speedup_e2e_p50"] == pytest.approx(1 / 0.06)


def test_lead_in_requests_give_tokens_but_no_latency(make_record: MakeRecord) -> None:
    speeds = block_speeds([make_record(0.0, warmup=True)], Window(arm=0, block=0, start_s=0.035, end_s=0.535))
    assert speeds == {"speedup_output_tokens_per_s": pytest.approx(3 / 0.5)}


def test_above_one_is_faster_for_every_speedup(make_record: MakeRecord) -> None:
    window = Window(arm=0, block=0, start_s=0, end_s=1)
    slow = block_speeds([make_record(0.0)], window)
    fast = block_speeds([make_record(0.0, event_s=tuple(0.01 + 0.005 * k for k in range(5))), make_record(0.5)], window)
    comparison = compare(("fast", "slow"), [fast], [slow])
    assert set(comparison.ratios) == set(SPEEDUPS)
    assert all(estimate.value > 1 for estimate in comparison.ratios.values())


def test_a_block_without_a_pair_is_left_out() -> None:
    name = "speedup_ttft_p50"
    comparison = compare(("a", "b"), [{name: 2.0}, {}, {name: 3.0}], [{name: 1.0}, {name: 1.0}, {name: 1.0}])
    assert comparison.block_ratios == {name: (2.0, 3.0)}
    assert comparison.ratios[name].n == 2


@pytest.mark.parametrize(
    ("start_s", "end_s", "tokens"),
    [
        pytest.param(0.0, 1.0, 5, id="all events inside"),
        pytest.param(0.03, 0.05, 2, id="the start is inside, the end outside"),
        pytest.param(0.035, 1.0, 3, id="events before the window do not count"),
        pytest.param(0.5, 1.0, 0, id="none inside"),
    ],
)
def test_tokens_are_counted_by_the_time_of_their_event(
    make_record: MakeRecord, start_s: float, end_s: float, tokens: float
) -> None:
    record = make_record(event_s=(0.02, 0.03, 0.04, 0.05, 0.06))
    assert tokens_between(record, start_s, end_s) == pytest.approx(tokens)


def test_an_event_of_several_tokens_counts_its_share(make_record: MakeRecord) -> None:
    record = make_record(event_s=(0.1, 0.2), output_tokens=8)
    assert tokens_between(record, 0.15, 1.0) == pytest.approx(4)


def test_windows_that_tile_a_span_share_out_every_token_once(make_record: MakeRecord) -> None:
    records = [make_record(0.013 * k) for k in range(20)]
    edges = np.linspace(0, 1, 8)
    parts = [totals_in_windows(records, [(a, b)])["output_tokens_per_s"] for a, b in itertools.pairwise(edges)]
    whole = totals_in_windows(records, [(0, 1)])
    assert sum(p or 0 for p in parts) / 7 == pytest.approx(whole["output_tokens_per_s"])
    assert whole["requests_per_s"] == pytest.approx(20)


def test_no_time_gives_no_throughput(make_record: MakeRecord) -> None:
    assert set(totals_in_windows([make_record()], []).values()) == {None}


def tails(make_record: MakeRecord, count: int) -> list[RequestRecord]:
    """TTFT k ms for k = 1 .. count."""
    return [make_record(0.0, index=k, event_s=(k / 1000, k / 1000 + 0.01)) for k in range(1, count + 1)]


def test_a_percentile_that_a_block_certifies_has_a_ratio(make_record: MakeRecord) -> None:
    """130 requests certify p95 and not p99."""
    speeds = block_speeds(tails(make_record, 130), Window(arm=0, block=0, start_s=0, end_s=1))
    assert speeds["speedup_ttft_p95"] == pytest.approx(1 / np.percentile(np.arange(1, 131) / 1000, 95))
    assert "speedup_ttft_p99" not in speeds


def test_a_percentile_that_one_block_does_not_certify_is_suppressed_and_said(make_record: MakeRecord) -> None:
    blocks = [tails(make_record, 130), tails(make_record, 129)]
    suppressed = {s.measure: (s.samples, s.needed) for s in suppressed_tails(blocks)}
    assert suppressed["speedup_ttft_p95"] == (129, 130)
    assert suppressed["speedup_ttft_p99"] == (129, 662)
    assert "speedup_ttft_p90" not in suppressed
    window = Window(arm=0, block=0, start_s=0, end_s=1)
    speeds = [block_speeds(block, window) for block in blocks]
    comparison = compare(("a", "b"), speeds, speeds, suppressed_tails(blocks))
    assert "speedup_ttft_p95" not in comparison.ratios
    assert comparison.ratios["speedup_ttft_p90"].value == pytest.approx(1)
    assert {s.measure for s in comparison.suppressed} == set(suppressed)
