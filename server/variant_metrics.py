"""What is counted of one variant's requests, in a registry of its own?

The variant is no label here but the registry: the page of many variants is then made one variant at a time, between
which other clients' streams have their turn. Buckets start at half a millisecond, because small models answer their
first token in one or two. What every request adds to are plain numbers, made into metrics when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

TIME_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)
_BOUNDS = (*map(floatToGoString, TIME_BUCKETS_S), "+Inf")


class Ended(Protocol):
    """What a request that has ended is counted by; seconds are on one clock."""

    route: str
    code: int
    streamed: bool
    began_s: float
    first_byte_s: float | None
    queued_s: float
    refusal: str | None
    bytes_out: int


class Times:
    """How many durations fell into each of `TIME_BUCKETS_S` and beyond, and their sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """A bucket takes what is as long as its bound."""
        self.counts[bisect_left(TIME_BUCKETS_S, duration_s)] += 1
        self.sum_s += duration_s


class _Series:
    """What requests of one kind add to; other kinds may share some of it."""

    __slots__ = ("duration", "first_byte", "requests")

    def __init__(self, first_byte: Times, duration: Times) -> None:
        self.requests = 0
        self.first_byte = first_byte
        self.duration = duration


class VariantMetrics(Collector):
    """Counters and histograms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = 0
        self.failures = 0
        self.body_bytes = 0
        self._series: dict[tuple[str, int, bool], _Series] = {}
        self._first_byte: dict[tuple[str, ...], Times] = {}
        self._duration: dict[tuple[str, ...], Times] = {}
        self._refusals = Counter(
            "prunebench_refusals",
            "Requests that the gateway itself refused or broke off, by the error's code.",
            ("reason",),
            registry=self.registry,
        )
        self._waits = Histogram(
            "prunebench_queue_wait_seconds",
            "How long requests waited that had to wait for their turn and got it.",
            registry=self.registry,
            buckets=TIME_BUCKETS_S,
        )
        self.registry.register(self)

    def observe(self, request: Ended, ended_s: float) -> None:
        kind = (request.route, request.code, request.streamed)
        series = self._series.get(kind) or self._new_series(kind)
        series.requests += 1
        if request.first_byte_s is not None:
            series.first_byte.add(request.first_byte_s - request.began_s)
        series.duration.add(ended_s - request.began_s)
        self.requests += 1
        self.failures += request.code >= 400
        self.body_bytes += request.bytes_out
        if request.queued_s:
            self._waits.observe(request.queued_s)
        if request.refusal is not None:
            self._refusals.labels(request.refusal).inc()

    def _new_series(self, kind: tuple[str, int, bool]) -> _Series:
        route, _, streamed = kind
        first_byte = self._first_byte.setdefault((route, str(streamed).lower()), Times())
        found = self._series[kind] = _Series(first_byte, self._duration.setdefault((route,), Times()))
        return found

    def collect(self) -> Iterator[Metric]:
        name, about = "prunebench_response_body_bytes", "Bytes of bodies sent to clients."
        yield CounterMetricFamily(name, about, value=self.body_bytes)
        yield self._answered()
        about = "From the request's arrival to the first byte of the response body; not streamed, that is all of it."
        yield _histogram("time_to_first_byte_seconds", about, ("route", "stream"), self._first_byte)
        about = "From the request's arrival to the last byte of the response."
        yield _histogram("request_duration_seconds", about, ("route",), self._duration)

    def _answered(self) -> Metric:
        about = "Requests answered, by HTTP status (499: the client went away, 502: the worker did)."
        family = CounterMetricFamily("prunebench_requests", about, labels=("route", "code"))
        sums: dict[tuple[str, int], int] = {}
        for (route, code, _), series in self._series.items():
            sums[route, code] = sums.get((route, code), 0) + series.requests
        for (route, code), requests in sums.items():
            family.add_metric((route, str(code)), requests)
        return family


def _histogram(name: str, about: str, labels: tuple[str, ...], times: dict[tuple[str, ...], Times]) -> Metric:
    family = HistogramMetricFamily(f"prunebench_{name}", about, labels=labels)
    for values, of_these in times.items():
        buckets = list(zip(_BOUNDS, accumulate(of_these.counts), strict=True))
        family.add_metric(values, buckets, of_these.sum_s)
    return family
