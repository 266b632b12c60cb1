"""Does a test stop at what it was told to stop at, with what it saw in the last seconds, and at nothing else?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from artifacts.errors import ConfigError
from artifacts.run import RequestRecord
from loadtest.limits import Watch, parse_limits

MakeRecord = Callable[..., RequestRecord]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ttft_p95>500ms", [("ttft", 95, 0.5)]),
        ("itl_p50>0.02s", [("itl", 50, 0.02)]),
        ("errors>2.5%", [("errors", 0, 0.025)]),
        ("ttft_p99>2s, e2e_p90>1500ms,", [("ttft", 99, 2.0), ("e2e", 90, 1.5)]),
    ],
)
def test_limits_are_read(text: str, expected: list[tuple[str, int, float]]) -> None:
    assert [(limit.quantity, limit.percentile, limit.most) for limit in parse_limits(text)] == expected


@pytest.mark.parametrize(
    "text", ["ttft", "ttft_p95<5ms", "ttft_p42>5ms", "speed_p50>5ms", "ttft_p95>5", "errors>1", "ttft_p95>ms", "x>1%"]
)
def test_nonsense_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limits(f"ttft_p50>1s,{text}")
    assert repr(text) in str(caught.value)
    assert "NAME_pN>VALUEms with ttft, tpot, itl, e2e and p50, p90, p95, p99, or errors>VALUE%" in str(caught.value)


def watched(text: str, records: list[RequestRecord], window_s: float = 30) -> str | None:
    watch = Watch(parse_limits(text), window_s)
    for number, record in enumerate(records):
        watch.hear(float(number), record)
    return watch.broken()


# Made records have a TTFT of 20 ms, gaps of 10 ms and 60 ms end to end.
BROKEN = [
    ("ttft_p50>19ms", 11, "20.0 ms (11 values)"),
    ("ttft_p50>21ms", 11, None),
    ("ttft_p50>19ms", 10, None),
    ("itl_p50>9ms", 3, "10.0 ms (12 values)"),
    ("itl_p50>9ms", 2, None),
    ("tpot_p50>9ms", 11, "10.0 ms (11 values)"),
    ("e2e_p50>59ms", 11, "60.0 ms (11 values)"),
    ("ttft_p50>21ms,e2e_p50>59ms", 11, "e2e_p50>59ms"),
    ("errors>0%", 50, None),
]


@pytest.mark.parametrize(("text", "count", "said"), BROKEN)
def test_a_limit_breaks_with_enough_values_beyond_it(
    make_record: MakeRecord, text: str, count: int, said: str | None
) -> None:
    sentence = watched(text, [make_record() for _ in range(count)])
    assert (sentence is None) if said is None else (sentence is not None and said in sentence)


def test_percentiles_need_as_many_values_as_certify_them(make_record: MakeRecord) -> None:
    records = [make_record() for _ in range(130)]
    assert watched("ttft_p95>1ms", records[:129], 1e9) is None
    assert watched("ttft_p95>1ms", records, 1e9) is not None


def test_only_the_last_seconds_count(make_record: MakeRecord) -> None:
    slow = make_record(event_s=(1.0, 1.01, 1.02))
    records = [slow] * 40 + [make_record()] * 31
    assert watched("ttft_p50>500ms", records[:40]) is not None
    assert watched("ttft_p50>500ms", records) is None


@pytest.mark.parametrize(("failed", "broken"), [(0, False), (2, False), (3, True)])
def test_failures_break_a_limit_of_errors_alone(make_record: MakeRecord, failed: int, broken: bool) -> None:
    bad = make_record(error="closed: early", output_tokens=None, event_s=(9.0, 9.1))
    records = [bad] * failed + [make_record()] * (20 - failed)
    assert (watched("errors>10%", records) is not None) == broken
    assert watched("ttft_p50>500ms", records) is None


def test_without_limits_nothing_is_kept(make_record: MakeRecord) -> None:
    watch = Watch(())
    watch.hear(0.0, make_record())
    assert (watch.broken(), len(watch._seen)) == (None, 0)
