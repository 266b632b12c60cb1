"""Do captures become records, and records figures of their own arm, with nothing counted twice or misplaced?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from artifacts.measures import MEASURES
from artifacts.run import RequestRecord, Window
from loadtest.exchange import Exchange, Place, record_of
from loadtest.summary import compare_arms, summarise_arms

MakeRecord = Callable[..., RequestRecord]
PLACE = Place(model="m", arm=1, block=2, index=3, warmup=True)
ZERO_NS = 5_000_000_000


def event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"text": text, "finish_reason": finish}]})


def answered(*reads: tuple[int, bytes], **values: Any) -> Exchange:
    """An exchange whose body came in these reads, at these milliseconds; the connection's end closes it."""
    raw = [(ZERO_NS + at_ms * 10**6, data) for at_ms, data in reads]
    raw[0] = (raw[0][0], b"HTTP/1.1 200 OK\r\n\r\n" + raw[0][1])
    return Exchange(scheduled_ns=ZERO_NS + 10**6, sent_ns=ZERO_NS + 2 * 10**6, reads=raw, **values)


USAGE = event({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}) + b"data: [DONE]\n\n"


def test_a_record_is_the_capture_in_seconds_since_zero() -> None:
    exchange = answered((20, token("a")), (30, token("b", "length")), (31, USAGE), done_ns=ZERO_NS + 32 * 10**6)
    record = record_of(exchange, PLACE, ZERO_NS)
    times = (record.scheduled_s, record.sent_s, record.first_s, record.last_s, record.done_s)
    assert times == pytest.approx((0.001, 0.002, 0.020, 0.030, 0.032))
    assert record.event_s == pytest.approx((0.020, 0.030))
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (4, 2, "length")
    assert (record.status, record.error, record.reads, record.ok) == (200, None, 3, True)


def test_a_record_keeps_its_place() -> None:
    record = record_of(answered((20, USAGE)), PLACE, ZERO_NS)
    assert (record.model, record.arm, record.block, record.index, record.warmup) == ("m", 1, 2, 3, True)


def test_what_never_happened_has_no_time() -> None:
    record = record_of(Exchange(scheduled_ns=ZERO_NS, failure="connect: refused"), PLACE, ZERO_NS)
    assert (record.sent_s, record.first_s, record.last_s, record.done_s, record.status) == (None,) * 5
    assert (record.event_s, record.reads, record.output_tokens) == ((), 0, None)
    assert (record.failure_kind, record.ok) == ("connect", False)


def test_a_transport_failure_outranks_what_the_bytes_say() -> None:
    whole = answered((20, token("a")), (30, USAGE), failure="timeout: after 9 s")
    record = record_of(whole, PLACE, ZERO_NS)
    assert (record.error, record.ok) == ("timeout: after 9 s", False)
    assert record.event_s == pytest.approx((0.020,))


REFUSALS = [
    ([], None, True, "no answer came"),
    ([b"HTTP/1.1 200 OK\r\n"], None, False, "an answer has begun"),
    ([b"HTTP/1.0 200 OK\r\n"], None, False, "by an old server as well"),
    ([b"HTTP/1.1 429 Slow down\r\n"], None, True, "too many requests"),
    ([b"HTTP/1.1 503 Busy\r\n"], None, True, "not ready"),
    ([b"HTTP/1.1 200 OK\r\n"], "closed: early", True, "an answer that was lost"),
]


@pytest.mark.parametrize(("reads", "failure", "refused", "what"), REFUSALS, ids=[what for *_, what in REFUSALS])
def test_refused(reads: list[bytes], failure: str | None, refused: bool, what: str) -> None:
    exchange = Exchange(scheduled_ns=0, reads=[(1, data) for data in reads], failure=failure)
    assert exchange.refused == refused, what


WINDOWS = [Window(arm=arm, block=block, start_s=s, end_s=s + 1) for arm, block, s in ((0, 0, 0), (1, 0, 2))]


def test_an_arm_counts_its_own_requests_outside_the_lead_in(make_record: MakeRecord) -> None:
    records = [
        make_record(0.1, arm=0),
        make_record(0.2, arm=0, warmup=True),
        make_record(2.1, arm=1),
        make_record(2.2, arm=1, error="http_503: busy", output_tokens=None),
        make_record(2.3, arm=1, error="timeout: after 9 s", output_tokens=None),
        make_record(2.4, arm=1, error="http_503: busy again", output_tokens=None),
        make_record(2.5, arm=1, warmup=True, error="closed: early", output_tokens=None),
    ]
    first, second = summarise_arms(("a", "b"), records, WINDOWS, {})
    assert (first.model, first.requests, first.failures, first.output_tokens) == ("a", 1, 0, 5)
    assert (second.model, second.requests, second.failures, second.output_tokens) == ("b", 4, 3, 5)
    assert second.failures_by_kind == {"http_503": 2, "timeout": 1}
    assert sum(second.failures_by_kind.values()) == second.failures
    assert set(first.measures) == set(MEASURES)


def test_throughput_counts_what_came_in_the_windows_even_of_the_lead_in(make_record: MakeRecord) -> None:
    """Five tokens each: all inside; three behind the start (begun in the lead-in); two before the end."""
    records = [
        make_record(0.5),
        make_record(-0.05, warmup=True, event_s=(-0.02, -0.01, 0.0, 0.01, 0.02)),
        make_record(0.9, event_s=(0.98, 0.99, 1.0, 1.01, 1.02)),
    ]
    (arm,) = summarise_arms(("a",), records, WINDOWS[:1], {})
    assert arm.measures["output_tokens_per_s"] == pytest.approx(5 + 3 + 2)
    assert arm.measures["requests_per_s"] == pytest.approx(2)


FINGERPRINTS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"a": {"prunebench": {"fingerprint": "f00d"}}}, "f00d", "a variant's"),
    ({"a": {"id": "a"}}, None, "another server's model has none"),
    ({"a": {"prunebench": {}}}, None, "nor has a hub model"),
    ({}, None, "nor one that is not listed"),
]


@pytest.mark.parametrize(("served", "fingerprint", "what"), FINGERPRINTS, ids=[what for *_, what in FINGERPRINTS])
def test_the_fingerprint_is_what_the_server_states(served: dict[str, Any], fingerprint: str | None, what: str) -> None:
    (arm,) = summarise_arms(("a",), [], WINDOWS[:1], served)
    assert arm.fingerprint == fingerprint, what


def blocks_of(make_record: MakeRecord, gaps_s: tuple[float, ...]) -> tuple[list[RequestRecord], list[Window]]:
    """Three blocks in which arm `i` gives its five tokens `gaps_s[i]` apart, played in mirrored order."""
    records, windows, at_s = [], [], 0.0
    for block in range(3):
        arms = list(range(len(gaps_s)))
        for arm in arms if block % 2 == 0 else reversed(arms):
            events = tuple(at_s + gaps_s[arm] * k for k in range(1, 6))
            records.append(make_record(at_s, arm=arm, block=block, event_s=events))
            windows.append(Window(arm=arm, block=block, start_s=at_s, end_s=at_s + 1))
            at_s += 2
    return records, windows


@pytest.mark.parametrize(("gap_s", "speedup"), [(0.01, 2.0), (0.02, 1.0), (0.08, 0.25)])
def test_a_comparison_is_above_one_where_the_model_is_faster(
    make_record: MakeRecord, gap_s: float, speedup: float
) -> None:
    (comparison,) = compare_arms(("dense", "small"), *blocks_of(make_record, (0.02, gap_s)))
    assert (comparison.model, comparison.against) == ("small", "dense")
    for name in ("speedup_tpot_p50", "speedup_ttft_p50", "speedup_e2e_p50"):
        assert comparison.block_ratios[name] == pytest.approx((speedup,) * 3), name
    assert comparison.block_ratios["speedup_output_tokens_per_s"] == pytest.approx((1.0,) * 3)


def test_every_other_arm_is_compared_with_the_first(make_record: MakeRecord) -> None:
    comparisons = compare_arms(("r", "a", "r"), *blocks_of(make_record, (0.02, 0.01, 0.02)))
    assert [(c.model, c.against) for c in comparisons] == [("a", "r"), ("r", "r")]
    assert [c.ratios["speedup_tpot_p50"].value for c in comparisons] == pytest.approx([2.0, 1.0])


def test_the_order_of_records_and_windows_means_nothing(make_record: MakeRecord) -> None:
    records, windows = blocks_of(make_record, (0.02, 0.01))
    assert compare_arms(("a", "b"), records[::-1], windows[::-1]) == compare_arms(("a", "b"), records, windows)


def test_a_block_in_which_one_arm_failed_makes_no_pair(make_record: MakeRecord) -> None:
    records, windows = blocks_of(make_record, (0.02, 0.01))
    left = [record for record in records if (record.arm, record.block) != (1, 1)]
    (comparison,) = compare_arms(("a", "b"), left, windows)
    assert {name: len(ratios) for name, ratios in comparison.block_ratios.items()} == dict.fromkeys(
        comparison.block_ratios, 2
    )
    assert comparison.ratios["speedup_tpot_p50"].n == 2
