"""Do plain numbers come to the same metrics as the library's own histograms and counters?"""

from __future__ import annotations

import random
from collections import Counter as Tally

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.metrics import ObservedRequest
from server.variant_metrics import TIME_BUCKETS_S, Times, VariantMetrics

Kind = tuple[str, int, bool]
KINDS: list[Kind] = [
    ("/v1/completions", 200, True),
    ("/v1/completions", 200, False),
    ("/v1/completions", 503, False),
    ("/v1/chat/completions", 200, True),
    ("other", 404, False),
]


def drawn(number: int) -> list[tuple[ObservedRequest, float]]:
    """Requests of all kinds with the moments of their ends; some never had a first byte, some last a bound exactly."""
    chance = random.Random(number)
    found = []
    for _ in range(number):
        route, code, streamed = chance.choice(KINDS)
        duration_s = chance.choice([chance.choice(TIME_BUCKETS_S), 10 ** chance.uniform(-4, 3.2)])
        first_byte_s = None if code == 503 else duration_s * chance.random()
        request = ObservedRequest(route, "a", code, 0.0, first_byte_s, streamed=streamed, bytes_out=chance.randrange(9))
        found.append((request, duration_s))
    return found


def page(registry: CollectorRegistry) -> list[str]:
    """The samples, without those that say when a series was made."""
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def reference(ended: list[tuple[ObservedRequest, float]]) -> list[str]:
    """What the library makes of them."""
    registry = CollectorRegistry()
    answered = Counter("prunebench_requests", "", ("route", "code"), registry=registry)
    first = Histogram(
        "prunebench_time_to_first_byte_seconds", "", ("route", "stream"), registry=registry, buckets=TIME_BUCKETS_S
    )
    lasted = Histogram("prunebench_request_duration_seconds", "", ("route",), registry=registry, buckets=TIME_BUCKETS_S)
    for request, ended_s in ended:
        answered.labels(request.route, str(request.code)).inc()
        stream = str(request.streamed).lower()
        series = first.labels(request.route, stream)
        if request.first_byte_s is not None:
            series.observe(request.first_byte_s)
        lasted.labels(request.route).observe(ended_s)
    return [line for line in page(registry) if not line.startswith("#")]


@pytest.mark.parametrize("number", [0, 1, 2, 50, 3000])
def test_a_page_is_what_the_library_would_say(number: int) -> None:
    ended = drawn(number)
    counted = VariantMetrics()
    for request, ended_s in ended:
        counted.observe(request, ended_s)
    said = page(counted.registry)
    assert set(reference(ended)) <= set(said)
    body_bytes = sum(request.bytes_out for request, _ in ended)
    assert f"prunebench_response_body_bytes_total {float(body_bytes)}" in said
    codes = Tally(request.code >= 400 for request, _ in ended)
    assert (counted.requests, counted.failures) == (number, codes[True])
    ours = [line for line in said if line.startswith(("prunebench_requests", "prunebench_time", "prunebench_request_"))]
    assert len(ours) == len(reference(ended))


def test_what_is_as_long_as_a_bound_is_within_it() -> None:
    for index, bound_s in enumerate(TIME_BUCKETS_S):
        times = Times()
        times.add(bound_s)
        assert times.counts.index(1) == index
    beyond = Times()
    beyond.add(TIME_BUCKETS_S[-1] * 1.01)
    assert beyond.counts[-1] == 1


def test_waits_and_refusals_are_counted_where_there_were_any() -> None:
    counted = VariantMetrics()
    counted.observe(ObservedRequest("other", "a", 429, 0.0, refusal="queue_full"), 0.1)
    counted.observe(ObservedRequest("other", "a", 200, 0.0, queued_s=2.0), 3.0)
    said = page(counted.registry)
    assert 'prunebench_refusals_total{reason="queue_full"} 1.0' in said
    assert "prunebench_queue_wait_seconds_count 1.0" in said
    assert "prunebench_queue_wait_seconds_sum 2.0" in said
