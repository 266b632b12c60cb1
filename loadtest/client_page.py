"""What does a running load test say of itself to Prometheus, without disturbing the clock it measures with?

The page is rendered between segments, when no stream is on the clock; while one is played a scrape gets bytes that lie
ready. Requests are therefore counted when their segment has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from artifacts.measures import e2e_s, tpot_s, ttft_s
from artifacts.run import RequestRecord
from loadtest.plan import Plan

_PREFIX = "prunebench_loadtest_"
SHORT_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
LATENESS_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)


class ClientCounts:
    """What requests add up to, by model. `heard` takes each record; `models` begin at zero."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._registry = CollectorRegistry()
        self._offered = self._counter("offered_requests", "Requests whose scheduled time has come.", "variant")
        self._completed = self._counter("completed_requests", "Requests answered in full.", "variant")
        self._failed = self._counter("failed_requests", "Requests that failed, by kind.", "variant", "kind")
        self._tokens = self._counter("output_tokens", "Output tokens that reached the client.", "variant")
        self._times = (
            (ttft_s, self._histogram("time_to_first_token_seconds", "Scheduled time to the first output.")),
            (tpot_s, self._histogram("time_per_output_token_seconds", "Between first and last output, per token.")),
            (e2e_s, self._histogram("e2e_seconds", "Scheduled time to the last output.")),
        )
        self._lateness = self._histogram("send_lateness_seconds", "Scheduled time to the sending.", LATENESS_BUCKETS_S)
        self._begin_at_zero(models)

    def _begin_at_zero(self, models: Iterable[str]) -> None:
        """A counter that appears with its first segment's sum would hide that segment from every rate."""
        for model in models:
            for counter in (self._offered, self._completed, self._tokens):
                counter.labels(model)
            for histogram in (self._lateness, *(histogram for _, histogram in self._times)):
                histogram.labels(model)

    def heard(self, record: RequestRecord) -> None:
        self._offered.labels(record.model).inc()
        if record.sent_s is not None:
            self._lateness.labels(record.model).observe(record.sent_s - record.scheduled_s)
        if not record.ok:
            self._failed.labels(record.model, record.failure_kind or "no_usage").inc()
            return
        self._completed.labels(record.model).inc()
        self._tokens.labels(record.model).inc(record.output_tokens or 0)
        for measure, histogram in self._times:
            for value_s in measure(record):
                histogram.labels(record.model).observe(value_s)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...] = SHORT_BUCKETS_S) -> Histogram:
        return Histogram(_PREFIX + name, about, ("variant",), registry=self._registry, buckets=buckets)


class ClientPage:
    """One planned run's figures. `heard` takes each record, `at` the time; `page` is what a scrape gets."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts = ClientCounts(plan.arms)
        self.heard = self._counts.heard
        self._now = CollectorRegistry()
        self._counted_page = b""
        self._cpu = self._gauge("process_cpu_share", "Processor time of the load client, in cores.")
        self._open = self._gauge("window_open", "1 while the arm's measured window is open.", "variant")
        self._progress = self._gauge("progress_ratio", "Share of the planned run that is over.")
        self._clocks_s = (time.perf_counter(), time.process_time())
        self._segment: tuple[int, bool] | None = None
        self.page = b""

    def at(self, done_s: float, total_s: float) -> None:
        """Renders counts where a segment begins, and at the end; the few gauges where its window opens as well."""
        segment = self._segment_at(done_s)
        if segment == self._segment and done_s < total_s:
            return
        self._read_clocks()
        if self._segment is None or segment[0] != self._segment[0] or done_s >= total_s:
            self._counted_page = self._counts.page()
        self._segment = segment
        self._progress.set(done_s / total_s)
        for number, arm in enumerate(self._plan.arms):
            playing = done_s < total_s and self._plan.segments[segment[0]].arm == number
            self._open.labels(arm).set(playing and segment[1])
        self.page = self._counted_page + generate_latest(self._now)

    def _segment_at(self, done_s: float) -> tuple[int, bool]:
        """Which segment is played, and whether its window is open."""
        each_s = self._plan.lead_in_s + self._plan.window_s
        number = min(int(done_s / each_s + 1e-9), len(self._plan.segments) - 1)
        return number, done_s - number * each_s >= self._plan.lead_in_s

    def _read_clocks(self) -> None:
        now_s = (time.perf_counter(), time.process_time())
        wall_s, processor_s = (b - a for a, b in zip(self._clocks_s, now_s, strict=True))
        self._clocks_s = now_s
        self._cpu.set(processor_s / max(wall_s, 1e-9))

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, about, labels, registry=self._now)
