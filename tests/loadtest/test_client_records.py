"""The committed measurements of the load client beside others say what their pages claim, and could say otherwise."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from artifacts.measures import inter_token_latencies_s, tpot_s, ttft_s
from benchmarks import bench_serve_beside, send_lateness
from benchmarks.pages import contains_one, read_raw

SAID: dict[str, Any] = {
    "start_times": [101.0, 100.0, 102.0],
    "ttfts": [0.03, 0.02, 0.05],
    "itls": [[0.01, 0.03], [0.01, 0.01], [0.02, 0.02]],
    "output_lens": [3, 3, 3],
    "input_lens": [32, 32, 33],
    "median_ttft_ms": 30.0,
    "median_tpot_ms": 20.0,
    "median_itl_ms": 15.0,
    "output_throughput": 4.5,
}


def test_their_times_become_our_records_in_the_order_of_sending() -> None:
    records = bench_serve_beside.records_of(SAID)
    assert [r.scheduled_s for r in records] == [100.0, 101.0, 102.0]
    assert [ttft_s(r)[0] for r in records] == pytest.approx([0.02, 0.03, 0.05])
    assert [tpot_s(r)[0] for r in records] == pytest.approx([0.01, 0.02, 0.02])
    assert inter_token_latencies_s(records[1]) == pytest.approx((0.01, 0.03))


def test_of_theirs_only_what_began_beside_ours_counts_and_units_are_seconds() -> None:
    many = {name: values * 12 if isinstance(values, list) else values for name, values in SAID.items()}
    seen = bench_serve_beside.what_they_saw(many, 100.5, 102.5)
    assert seen["theirs"]["ttft_p50_s"] == pytest.approx(0.04)
    assert seen["theirs"]["output_tokens_per_s"] == pytest.approx(24 * 3 / 2.0)
    assert seen["printed"]["ttft_p50_s"] == pytest.approx(0.030)
    assert seen["printed"]["output_tokens_per_s"] == 4.5
    assert seen["their_prompt_tokens"] == pytest.approx(97 / 3)


def test_engines_at_work_are_counted_over_variants() -> None:
    page = 'x 3\nvllm:num_requests_running{variant="a"} 2.0\nvllm:num_requests_running{variant="b"} 1.0\n'
    assert bench_serve_beside.running_requests(page) == 3
    assert bench_serve_beside.running_requests("") == 0


def test_both_clients_agree_where_the_page_says_so() -> None:
    raw = read_raw(bench_serve_beside.STEM)
    for rate in bench_serve_beside.RATES_PER_S:
        assert len(bench_serve_beside.at_rate(raw, rate)) >= 5
        assert contains_one(bench_serve_beside.compared(raw, rate, "tpot_p50_s", "theirs"))


def test_a_client_that_saw_other_times_would_be_told() -> None:
    raw = read_raw(bench_serve_beside.STEM)
    moved = copy.deepcopy(raw)
    for made in moved["rounds"]:
        made["ours"] = {**made["ours"], "tpot_p50_s": 1.5 * made["theirs"]["tpot_p50_s"]}
    rate = bench_serve_beside.RATES_PER_S[0]
    assert not contains_one(bench_serve_beside.compared(moved, rate, "tpot_p50_s", "theirs"))


def test_requests_are_sent_within_a_millisecond() -> None:
    rows = read_raw(send_lateness.STEM)["rows"]
    assert {row["output_tokens"] for row in rows} == set(send_lateness.OUTPUT_TOKENS)
    assert sum(row["failures"] for row in rows) == 0
    for tokens in send_lateness.OUTPUT_TOKENS:
        late_ms = [row["p99_ms"] for row in rows if row["output_tokens"] == tokens]
        assert len(late_ms) >= 5
        assert np.median(late_ms) <= send_lateness.TARGET_MS
    late = [{**row, "p99_ms": 1.2} for row in rows]
    assert "**No**" in send_lateness.render({**read_raw(send_lateness.STEM), "rows": late})
