"""Objectives from text and back; what counts as within them; the published limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from artifacts.errors import ConfigError
from artifacts.run import RequestRecord
from artifacts.slo import PRESETS, Slo, SloLimit, parse_slo

RECORD = RequestRecord(
    model="a",
    block=0,
    index=0,
    warmup=False,
    scheduled_s=10.0,
    sent_s=10.05,
    first_s=10.2,
    last_s=10.6,
    done_s=10.61,
    status=200,
    error=None,
    prompt_tokens=4,
    output_tokens=5,
    finish_reason="length",
    reads=5,
    event_s=(10.2, 10.3, 10.4, 10.5, 10.6),
)
"""TTFT 200 ms from the schedule, TPOT 100 ms, E2E 600 ms."""


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft_p95<500ms", [("ttft", 95, 0.5)]),
        ("ttft_p95<=500ms", [("ttft", 95, 0.5)]),
        (" ttft_p95 < 0.5s , tpot_p99.9<30ms", [("ttft", 95, 0.5), ("tpot", 99.9, 0.03)]),
        ("e2e_p50<2s,e2e_p99<10s", [("e2e", 50, 2), ("e2e", 99, 10)]),
        ("ttft_p90<750us", [("ttft", 90, 0.00075)]),
        ("e2e_p90<125.5s", [("e2e", 90, 125.5)]),
        ("mlperf-llama3.1-8b-interactive,e2e_p99<10s", [("ttft", 99, 0.5), ("tpot", 99, 0.03), ("e2e", 99, 10)]),
    ],
)
def test_texts(text: str, limits: list[tuple[str, float, float]]) -> None:
    slo = parse_slo(text)
    assert [(x.quantity, x.percentile) for x in slo.limits] == [(q, p) for q, p, _ in limits]
    assert [x.limit_s for x in slo.limits] == pytest.approx([s for _, _, s in limits])
    assert parse_slo(slo.text) == slo


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no limit"),
        ("ttft<500ms", "Write one as ttft_p95<500ms"),
        ("ttft_p95>500ms", "is no limit"),
        ("mlperf-llama9", "mlperf-llama3.1-8b-conversational"),
        ("ttft_p95<500", "no unit of time"),
        ("ttft_p95<500min", "us, ms or s"),
        ("itl_p95<5ms", "limits 'itl'. Limits can be on ttft, tpot, e2e"),
        ("ttft_p9.9.9<5ms", "no number"),
        ("ttft_p0<5ms", "out of range"),
        ("ttft_p100<5ms", "out of range"),
        ("ttft_p99<0ms", "out of range"),
        ("ttft_p99<5ms,ttft_p99<6ms", "given twice"),
        ("ttft_p99<5ms,,", "'' is no limit"),
    ],
)
def test_texts_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_slo(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "met"),
    [
        ("ttft_p95<200ms", True),
        ("ttft_p95<199ms", False),
        ("tpot_p50<101ms", True),
        ("tpot_p50<99ms", False),
        ("e2e_p99<600ms", True),
        ("e2e_p99<599ms", False),
    ],
)
def test_a_request_is_judged_from_its_scheduled_time(limit: str, met: bool) -> None:
    (only,) = parse_slo(limit).limits
    moved = replace(RECORD, first_s=10.2 - 1e-9, last_s=10.6 - 1e-9)  # away from rounding at the limit
    assert only.met_by(moved) is met
    assert only.met_by(replace(moved, sent_s=None)) is met


@pytest.mark.parametrize("error", ["timeout: too long", "http_503: busy", "no_usage: none"])
def test_a_failed_request_is_late_in_everything(error: str) -> None:
    slo = parse_slo("ttft_p50<10s,tpot_p50<10s,e2e_p50<10s")
    assert slo.met_by(RECORD)
    failed = replace(RECORD, error=error)
    assert [limit.met_by(failed) for limit in slo.limits] == [False] * 3


def test_one_token_has_no_time_per_output_token() -> None:
    single = replace(RECORD, output_tokens=1, last_s=10.2, event_s=(10.2,))
    assert parse_slo("tpot_p99<1us").met_by(single)
    assert not parse_slo("tpot_p99<1us,ttft_p99<1ms").met_by(single)


def test_goodput_needs_every_limit() -> None:
    assert parse_slo("ttft_p95<300ms,tpot_p95<300ms").met_by(RECORD)
    assert not parse_slo("ttft_p95<300ms,tpot_p95<50ms").met_by(RECORD)


@pytest.mark.parametrize(
    ("text", "longest_s"),
    [
        ("ttft_p95<500ms", None),
        ("tpot_p95<50ms", None),
        ("e2e_p95<2s", 2),
        ("ttft_p99<2s,tpot_p99<100ms", 2 + 63 * 0.1),
        ("ttft_p50<1s,ttft_p99<2s,tpot_p99<100ms", 2 + 63 * 0.1),
        ("ttft_p99<2s,tpot_p99<100ms,e2e_p99<30s", 30),
    ],
)
def test_the_laxest_limits_bound_a_request(text: str, longest_s: float | None) -> None:
    found = parse_slo(text).longest_s(64)
    assert found is None if longest_s is None else found == pytest.approx(longest_s)


@pytest.mark.parametrize(
    ("name", "ttft_s", "tpot_s"),
    [
        ("mlperf-llama3.1-8b-conversational", 2.0, 0.1),
        ("mlperf-llama3.1-8b-interactive", 0.5, 0.03),
        ("mlperf-llama2-70b-conversational", 2.0, 0.2),
        ("mlperf-llama2-70b-interactive", 0.45, 0.04),
        ("mlperf-gpt-oss-120b-conversational", 3.0, 0.08),
        ("mlperf-gpt-oss-120b-interactive", 2.0, 0.02),
        ("mlperf-deepseek-r1-conversational", 2.0, 0.08),
        ("mlperf-deepseek-r1-interactive", 1.5, 0.015),
    ],
)
def test_presets_are_the_published_limits(name: str, ttft_s: float, tpot_s: float) -> None:
    found = {limit.quantity: limit.limit_s for limit in parse_slo(name).limits}
    assert found == pytest.approx({"ttft": ttft_s, "tpot": tpot_s})
    assert {limit.percentile for limit in PRESETS[name].limits} == {99}


def test_an_slo_survives_its_file() -> None:
    slo = parse_slo("ttft_p95<500ms,tpot_p99<30ms")
    assert Slo.model_validate_json(slo.model_dump_json()) == slo
    assert SloLimit(quantity="ttft", percentile=95, limit_s=0.5).required_share == pytest.approx(0.95)
