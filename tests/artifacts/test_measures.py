"""Measures computed by hand from three requests, and the sample sizes that certify percentiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import ConfigError, LoadTestError
from artifacts.measures import (
    CERTIFYING_SAMPLES,
    MEASURES,
    PERCENTILE_MEASURES,
    e2e_s,
    inter_token_latencies_s,
    percentile,
    summarise,
    suppressed_percentiles,
    tpot_s,
    ttft_s,
)
from artifacts.run import Level, RequestRecord, load_run, read_requests, write_requests

GOOD = RequestRecord(
    model="m",
    block=0,
    index=0,
    warmup=False,
    scheduled_s=1.0,
    sent_s=1.1,
    first_s=1.5,
    last_s=1.9,
    done_s=1.95,
    status=200,
    error=None,
    prompt_tokens=8,
    output_tokens=5,
    finish_reason="length",
    reads=5,
    event_s=(1.5, 1.6, 1.7, 1.8, 1.9),
)
FAILED = replace(GOOD, status=503, error="503", first_s=None, last_s=None, output_tokens=None, event_s=())


def test_definitions_by_hand() -> None:
    assert ttft_s(GOOD) == pytest.approx((0.5,))  # from the scheduled time, not from the late send
    assert tpot_s(GOOD) == pytest.approx((0.1,))
    assert e2e_s(GOOD) == pytest.approx((0.9,))
    assert inter_token_latencies_s(GOOD) == pytest.approx((0.1, 0.1, 0.1, 0.1))


def test_one_token_has_no_tpot_and_failures_have_nothing() -> None:
    assert tpot_s(replace(GOOD, output_tokens=1)) == ()
    assert [f(FAILED) for f in (ttft_s, tpot_s, e2e_s, inter_token_latencies_s)] == [(), (), (), ()]


@pytest.mark.parametrize(("p", "needed"), sorted(CERTIFYING_SAMPLES.items()))
def test_percentiles_need_their_samples(p: int, needed: int) -> None:
    assert percentile([1.0] * (needed - 1), p) is None
    assert percentile([1.0] * needed, p) == 1.0


def test_percentile_of_a_ramp() -> None:
    assert percentile([float(v) for v in range(101)], 50) == 50.0


def test_summary_counts_the_measured_successes_only() -> None:
    lead_in = replace(GOOD, warmup=True, first_s=0.5, last_s=0.9, event_s=(0.5, 0.6, 0.7, 0.8, 0.9))
    records = [GOOD] * 20 + [FAILED] * 5 + [lead_in] * 7
    summary = summarise(records, windows=[(1.0, 11.0)])
    assert set(summary) == set(MEASURES)
    assert summary["output_tokens_per_s"] == pytest.approx(20 * 5 / 10)
    assert summary["requests_per_s"] == pytest.approx(2)
    assert summary["ttft_p50_s"] == pytest.approx(0.5)
    assert summary["ttft_p99_s"] is None


def test_no_measured_time_gives_no_throughput() -> None:
    assert summarise([GOOD], [])["output_tokens_per_s"] is None


def test_every_percentile_measure_says_what_it_is() -> None:
    for name, measure in PERCENTILE_MEASURES.items():
        assert (measure.name, measure.unit, measure.better) == (name, "s", "lower")
        assert measure.definition.startswith(f"p{measure.percentile} of ")


def test_requests_survive_the_disk(tmp_path: Path) -> None:
    write_requests(tmp_path / "requests.parquet", [GOOD, FAILED])
    good, failed = read_requests(tmp_path / "requests.parquet")
    assert (replace(good, event_s=GOOD.event_s), failed) == (GOOD, FAILED)
    assert good.event_s == pytest.approx(GOOD.event_s, abs=1e-6)


def test_damaged_requests_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "requests.parquet").write_bytes(b"not parquet")
    with pytest.raises(LoadTestError, match="Run the load test again"):
        read_requests(tmp_path / "requests.parquet")


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("level", "loop", "label"),
    [
        (Level(concurrency=4), "closed", "concurrency 4"),
        (Level(rate_per_s=2.5, arrivals="poisson"), "open", "2.5 requests/s, poisson"),
    ],
)
def test_levels_name_themselves(level: Level, loop: str, label: str) -> None:
    assert (level.loop, level.label) == (loop, label)


def test_what_is_suppressed_is_named_with_what_it_lacks() -> None:
    """Two answers of five tokens: 2 values of TTFT, 8 gaps."""
    records = [GOOD, replace(GOOD, index=1)]
    found = {s.measure: (s.samples, s.needed) for s in suppressed_percentiles(records)}
    nothing = summarise(records, [(0.0, 2.0)])
    assert {name for name in PERCENTILE_MEASURES if nothing[name] is None} == set(found)
    assert found["ttft_p50_s"][0] == 2
    assert found["ttft_p99_s"][1] == 662


def test_a_token_costs_two_bytes_on_disk_and_keeps_its_microsecond(tmp_path: Path) -> None:
    """A level of a study must be small enough to carry home: a million tokens are two megabytes."""
    draw = np.random.default_rng(0)
    asked = [
        replace(GOOD, event_s=tuple(draw.uniform(0, 50) + np.cumsum(draw.normal(0.012, 2e-4, 256)))) for _ in range(400)
    ]
    write_requests(tmp_path / "requests.parquet", asked)
    assert (tmp_path / "requests.parquet").stat().st_size < 2.3 * 400 * 256
    found = read_requests(tmp_path / "requests.parquet")
    off = [np.abs(np.array(a.event_s) - np.array(b.event_s)).max() for a, b in zip(asked, found, strict=True)]
    assert 0 < max(off) <= 2**-21
    assert [replace(each, event_s=()) for each in found] == [replace(each, event_s=()) for each in asked]
