"""Does a bucket let through exactly its rate and its burst, and is what it says about the next request true?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.faults import RateExceeded, error_body, error_headers
from server.rate import TokenBucket


@pytest.mark.parametrize(
    ("per_minute", "burst", "at_once"),
    [(60, None, 60), (60, 1, 1), (60, 200, 200), (0.5, None, 1), (90.9, None, 90), (1, None, 1)],
)
def test_so_many_at_once(per_minute: float, burst: int | None, at_once: int) -> None:
    bucket = TokenBucket(per_minute, burst)
    assert bucket.remaining == at_once
    left = []
    while bucket.take(5.0) == 0:
        left.append(bucket.remaining)
    assert left == list(range(at_once - 1, -1, -1))


@pytest.mark.parametrize("per_minute", [0.5, 1, 7, 60, 600, 100_000])
def test_the_wait_is_exact(per_minute: float) -> None:
    bucket = TokenBucket(per_minute, 1)
    assert bucket.take(100.0) == 0
    wait_s = bucket.take(100.0)
    assert wait_s == pytest.approx(60 / per_minute)
    assert bucket.take(100.0 + wait_s * 0.99) > 0
    assert bucket.take(100.0 + wait_s) == 0


def test_a_refused_request_costs_nothing() -> None:
    bucket = TokenBucket(60, 1)
    assert bucket.take(0.0) == 0
    waits = [bucket.take(at_s / 10) for at_s in range(10)]
    assert waits == pytest.approx([1 - at_s / 10 for at_s in range(10)])
    assert bucket.take(1.0) == 0


def test_an_idle_bucket_holds_no_more_than_its_burst() -> None:
    bucket = TokenBucket(60, 3)
    for _ in range(3):
        assert bucket.take(0.0) == 0
    assert [bucket.take(1000.0) == 0 for _ in range(5)] == [True, True, True, False, False]


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.floats(1, 6000),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 3), min_size=1, max_size=80),
    began_s=st.floats(0, 1e6),
)
def test_in_no_span_more_than_burst_and_rate_together(
    per_minute: float, burst: int, gaps_s: list[float], began_s: float
) -> None:
    bucket, now_s, taken_s = TokenBucket(per_minute, burst), began_s, list[float]()
    for gap_s in gaps_s:
        now_s += gap_s
        wait_s = bucket.take(now_s)
        assert wait_s >= 0
        assert 0 <= bucket.remaining < burst
        if wait_s == 0:
            taken_s.append(now_s)
    for first, start_s in enumerate(taken_s):
        for last in range(first, len(taken_s)):
            allowed = burst + (taken_s[last] - start_s) * per_minute / 60
            assert last - first + 1 <= allowed + 1e-3


@pytest.mark.parametrize(("wait_s", "told"), [(0.001, b"1"), (1.0, b"1"), (1.001, b"2"), (59.2, b"60")])
def test_who_waits_as_told_gets_a_turn(wait_s: float, told: bytes) -> None:
    error = RateExceeded("alice", 60, 5, wait_s)
    headers = dict(error_headers(error, error_body(error)))
    assert headers[b"retry-after"] == told
    assert int(told) >= wait_s > int(told) - 1
    assert headers[b"x-ratelimit-limit-requests"] == b"5"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert math.ceil(wait_s) == int(told)
    assert (error.status, error.code, error.error_type) == (429, "rate_limit_exceeded", "rate_limit_error")
