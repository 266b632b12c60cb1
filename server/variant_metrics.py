"""What is counted of one variant's requests, in a registry of its own?

The variant is no label here but the registry: the page of many variants is then made one variant at a time, between
which other clients' streams have their turn. Buckets start at half a millisecond, because small models answer their
first token in one or two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

TIME_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)


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


@dataclass(frozen=True, slots=True)
class _Series:
    """What requests of one kind add to."""

    requests: Counter
    first_byte: Histogram
    duration: Histogram


class VariantMetrics(Collector):
    """Counters and histograms; plain sums where nothing else is needed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = 0
        self.failures = 0
        self.body_bytes = 0
        self._series: dict[tuple[str, int, bool], _Series] = {}
        self._answered = self._counter(
            "requests",
            "Requests answered, by HTTP status (499: the client went away, 502: the worker did).",
            ("route", "code"),
        )
        self._refusals = self._counter(
            "refusals", "Requests that the gateway itself refused or broke off, by the error's code.", ("reason",)
        )
        self._first_byte = self._histogram(
            "time_to_first_byte_seconds",
            "From the request's arrival to the first byte of the response body; not streamed, that is all of it.",
            ("route", "stream"),
        )
        self._duration = self._histogram(
            "request_duration_seconds", "From the request's arrival to the last byte of the response.", ("route",)
        )
        self._waits = self._histogram(
            "queue_wait_seconds", "How long requests waited that had to wait for their turn and got it."
        )
        self.registry.register(self)

    def observe(self, request: Ended, ended_s: float) -> None:
        series = self._series_of((request.route, request.code, request.streamed))
        series.requests.inc()
        if request.first_byte_s is not None:
            series.first_byte.observe(request.first_byte_s - request.began_s)
        series.duration.observe(ended_s - request.began_s)
        self.requests += 1
        self.failures += request.code >= 400
        self.body_bytes += request.bytes_out
        if request.queued_s:
            self._waits.observe(request.queued_s)
        if request.refusal is not None:
            self._refusals.labels(request.refusal).inc()

    def collect(self) -> Iterator[Metric]:
        name, about = "prunebench_response_body_bytes", "Bytes of bodies sent to clients."
        yield CounterMetricFamily(name, about, value=self.body_bytes)

    def _series_of(self, labels: tuple[str, int, bool]) -> _Series:
        """Finding series by their labels costs more than counting."""
        found = self._series.get(labels)
        if found is None:
            route, code, streamed = labels
            found = self._series[labels] = _Series(
                self._answered.labels(route, str(code)),
                self._first_byte.labels(route, str(streamed).lower()),
                self._duration.labels(route),
            )
        return found

    def _counter(self, name: str, about: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"prunebench_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"prunebench_{name}", about, labels, registry=self.registry, buckets=TIME_BUCKETS_S)
