"""What does the gateway itself count, and under which bounded labels?

A label's value never comes from a client: an unknown model is `_unknown`, an unlisted path `other`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from artifacts.nvml import installed_nvml
from artifacts.provenance import own_version
from server.exposition import Page, pieces_of
from server.fleet_metrics import FleetCollector
from server.gpu_metrics import GpuCollector
from server.registry import Registry
from server.replicas import Replica
from server.variant_metrics import VariantMetrics

UNKNOWN_VARIANT = "_unknown"
CLIENT_GONE = 499

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
    """What one gateway counts, by variant, and what its variants say when they are asked."""

    def __init__(self, variants: Registry, log: RequestLog | None = None) -> None:
        self._log = log
        self._by_variant: dict[str, VariantMetrics] = {}
        self._registry = CollectorRegistry()
        self._registry.register(FleetCollector(variants))
        self._registry.register(GpuCollector(installed_nvml()))
        ProcessCollector(registry=self._registry)
        build = Info("prunebench_build", "What is running.", registry=self._registry)
        build.info({"version": own_version(), "python": platform.python_version()})
        if log is not None:
            self._registry.register(LogCollector(log))

    def observe(self, request: ObservedRequest) -> None:
        """Counts a request that has ended."""
        ended_s = time.perf_counter()
        counted = self._by_variant.get(request.variant)
        if counted is None:
            counted = self._by_variant[request.variant] = VariantMetrics()
        counted.observe(request, ended_s)
        if self._log is not None:
            self._log.note(request, ended_s)

    def log(self, request: ObservedRequest) -> None:
        """Writes down a request that is not counted: one to the control plane."""
        if self._log is not None:
            self._log.note(request, time.perf_counter())

    def counts(self, variant: str) -> tuple[int, int]:
        """Requests ended so far, and how many of them with an error."""
        counted = self._by_variant.get(variant)
        return (0, 0) if counted is None else (counted.requests, counted.failures)

    def pages(self) -> Iterator[Page]:
        """Everything, a few samples at a time."""
        yield from pieces_of(self._registry, {})
        for variant, counted in self._by_variant.items():
            yield from pieces_of(counted.registry, {"variant": variant})


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


class LogCollector(Collector):
    """What is not in the access log."""

    def __init__(self, log: RequestLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        name, about = "prunebench_access_log_dropped_lines", "Requests without a line: the disk was full or too slow."
        yield CounterMetricFamily(name, about, value=self._log.dropped)


def route_label(path: str) -> str:
    return path if path in FORWARDED_ROUTES else "other"
