"""What does the gateway itself count, and under which bounded labels?

A label's value never comes from a client: an unknown model is `_unknown`, an unlisted path `other`. Buckets start at
half a millisecond, because small models answer their first token in one or two.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from artifacts.provenance import own_version
from server.fleet_metrics import FleetCollector
from server.registry import Registry
from server.replicas import Replica

UNKNOWN_VARIANT = "_unknown"
CLIENT_GONE = 499

TIME_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)

PIECE_SAMPLES = 100

FORWARDED_ROUTES = (
    *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"),
    *("/v1/score", "/v1/rerank", "/tokenize", "/detokenize"),
)


class RequestLog(Protocol):
    """Where single requests are written down. `dropped` counts those that are not, because it could not keep up."""

    @property
    def dropped(self) -> int: ...

    def note(self, request: ObservedRequest, ended_s: float) -> None: ...


class GatewayMetrics:
    """Counters and histograms of one gateway, in a registry of its own."""

    def __init__(self, variants: Registry, log: RequestLog | None = None) -> None:
        self._log = log
        self._registry = CollectorRegistry()
        self._registry.register(FleetCollector(variants))
        ProcessCollector(registry=self._registry)
        build = Info("prunebench_build", "What is running.", registry=self._registry)
        build.info({"version": own_version(), "python": platform.python_version()})
        if log is not None:
            self._registry.register(LogCollector(log))
        self._tallies: dict[str, Tally] = {}
        self._series: dict[tuple[str, str, int, bool], _Series] = {}
        self._registry.register(TallyCollector(self._tallies))
        self._requests = self._counter(
            "requests",
            "Requests answered, by HTTP status (499: the client went away, 502: the worker did).",
            ("variant", "route", "code"),
        )
        self._refusals = self._counter(
            "refusals",
            "Requests that the gateway itself refused or broke off, by the error's code.",
            ("variant", "reason"),
        )
        self._first_byte = self._histogram(
            "time_to_first_byte_seconds",
            "From the request's arrival to the first byte of the response body; not streamed, that is all of it.",
            ("variant", "route", "stream"),
        )
        self._duration = self._histogram(
            "request_duration_seconds",
            "From the request's arrival to the last byte of the response.",
            ("variant", "route"),
        )
        self._waits = self._histogram(
            "queue_wait_seconds", "How long requests waited that had to wait for their turn and got it.", ("variant",)
        )

    def _counter(self, name: str, about: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"prunebench_{name}", about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"prunebench_{name}", about, labels, registry=self._registry, buckets=TIME_BUCKETS_S)

    def observe(self, request: ObservedRequest) -> None:
        """Counts a request that has ended."""
        ended_s = time.perf_counter()
        series = self._series_of((request.variant, request.route, request.code, request.streamed))
        series.requests.inc()
        if request.first_byte_s is not None:
            series.first_byte.observe(request.first_byte_s - request.began_s)
        series.duration.observe(ended_s - request.began_s)
        tally = series.tally
        tally.requests += 1
        tally.failures += request.code >= 400
        tally.body_bytes += request.bytes_out
        if request.queued_s:
            self._waits.labels(request.variant).observe(request.queued_s)
        if request.refusal is not None:
            self._refusals.labels(request.variant, request.refusal).inc()
        if self._log is not None:
            self._log.note(request, ended_s)

    def log(self, request: ObservedRequest) -> None:
        """Writes down a request that is not counted: one to the control plane."""
        if self._log is not None:
            self._log.note(request, time.perf_counter())

    def _series_of(self, labels: tuple[str, str, int, bool]) -> _Series:
        """Finding series by their labels costs more than counting."""
        found = self._series.get(labels)
        if found is None:
            variant, route, code, streamed = labels
            found = self._series[labels] = _Series(
                self._requests.labels(variant, route, str(code)),
                self._first_byte.labels(variant, route, str(streamed).lower()),
                self._duration.labels(variant, route),
                self._tallies.setdefault(variant, Tally()),
            )
        return found

    def counts(self, variant: str) -> tuple[int, int]:
        """Requests ended so far, and how many of them with an error."""
        tally = self._tallies.get(variant, Tally())
        return tally.requests, tally.failures

    def pieces(self) -> Iterator[str]:
        """Prometheus text format 0.0.4, a few samples at a time: a family's pieces each have its head."""
        for metric in self._registry.collect():
            for begin in range(0, len(metric.samples), PIECE_SAMPLES):
                part = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                part.samples = metric.samples[begin : begin + PIECE_SAMPLES]
                yield generate_latest(_Collected(part)).decode()


@dataclass(slots=True)
class ObservedRequest:
    """What is noted about one request while it runs. `model` is what the client wrote.

    Times are on `time.perf_counter`; `tail` is the last two pieces of the answer's body, where its token counts are.
    """

    route: str
    variant: str = UNKNOWN_VARIANT
    code: int = 500
    began_s: float = field(default_factory=time.perf_counter)
    first_byte_s: float | None = None
    id: bytes = b""
    path: str = ""
    key_name: str | None = None
    model: str | None = None
    headers: Iterable[tuple[bytes, bytes]] = ()
    replica: Replica | None = None
    streamed: bool = False
    refusal: str | None = None
    queued_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    tail: tuple[bytes, bytes] = (b"", b"")


class _Collected(CollectorRegistry):
    """Just this metric, as a registry."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


@dataclass(slots=True)
class Tally:
    """Sums over one variant's requests, as plain numbers."""

    requests: int = 0
    failures: int = 0
    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Series:
    """Everything that requests of one kind add to."""

    requests: Counter
    first_byte: Histogram
    duration: Histogram
    tally: Tally


class TallyCollector(Collector):
    """What need not be counted twice."""

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        name, about = "prunebench_response_body_bytes", "Bytes of bodies sent to clients."
        family = CounterMetricFamily(name, about, labels=("variant",))
        for variant, tally in self._tallies.items():
            family.add_metric((variant,), tally.body_bytes)
        yield family


class LogCollector(Collector):
    """What is not in the access log."""

    def __init__(self, log: RequestLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        name, about = "prunebench_access_log_dropped_lines", "Requests without a line: the disk was full or too slow."
        yield CounterMetricFamily(name, about, value=self._log.dropped)


def route_label(path: str) -> str:
    return path if path in FORWARDED_ROUTES else "other"
