"""A queue instead of a server: N streams, one service time, first come first served, and the runs it would give.

With Poisson arrivals this is M/D/N, whose capacity is known exactly and whose waits are as noisy as a real server's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from artifacts.arrivals import Poisson
from artifacts.progress import Progress
from artifacts.provenance import Provenance
from artifacts.run import REQUESTS_NAME, RUN_NAME, Gate, RequestRecord, RunManifest, Window, write_requests
from benchmarks.slo_intervals import waits_s
from loadtest.arrivals import arrival_times_s
from loadtest.runner import LoadTestRequest
from loadtest.summary import compare_arms, summarise_arms

Fail = Callable[[LoadTestRequest], str | None]

NOWHERE = Provenance(
    created_at="2026-11-01T00:00:00+00:00",
    prunebench="0",
    commit=None,
    commit_dirty=None,
    python="3.11",
    system="none",
    cpu=None,
    cpu_cores=1,
    memory_bytes=None,
    gpus=(),
    versions={},
)


@dataclass
class Queue:
    """A model's server. A request takes `ttft_s` and then `tokens - 1` gaps of `itl_s` once it has a stream."""

    streams: int = 4
    ttft_s: float = 0.02
    itl_s: float = 0.076
    tokens: int = 2  # what a test makes of more tokens is the time to write them down

    @property
    def service_s(self) -> float:
        return self.ttft_s + (self.tokens - 1) * self.itl_s

    @property
    def capacity_per_s(self) -> float:
        return self.streams / self.service_s

    def share_within(self, ttft_s: float, rate_per_s: float) -> float:
        """The true share of requests whose time to first token is at most that, over a long run."""
        arrivals = arrival_times_s(Poisson(rate_per_s=rate_per_s), 40_000 / rate_per_s, (99,))
        waits = waits_s(arrivals, self.streams, self.service_s)[4000:]
        return float(np.mean(np.asarray(waits) + self.ttft_s <= ttft_s))

    def records(self, model: str, arm: int, arrivals_s: tuple[float, ...], lead_in_s: float) -> list[RequestRecord]:
        waits = waits_s(arrivals_s, self.streams, self.service_s)
        return [
            self._record(model, arm, index, at_s, wait_s, at_s < lead_in_s)
            for index, (at_s, wait_s) in enumerate(zip(arrivals_s, waits, strict=True))
        ]

    def _record(self, model: str, arm: int, index: int, at_s: float, wait_s: float, warmup: bool) -> RequestRecord:
        first_s = at_s + wait_s + self.ttft_s
        events = tuple(first_s + k * self.itl_s for k in range(self.tokens))
        return RequestRecord(
            model=model,
            arm=arm,
            block=0,
            index=index,
            warmup=warmup,
            scheduled_s=at_s,
            sent_s=at_s,
            first_s=first_s,
            last_s=events[-1],
            done_s=events[-1],
            status=200,
            error=None,
            prompt_tokens=8,
            output_tokens=self.tokens,
            finish_reason="length",
            reads=self.tokens,
            event_s=events,
        )


@dataclass
class QueuePlayer:
    """Stands in for `run_load_test`: writes the run directory that the queues would have given.

    `fail` names the gate that fails for a request, if one does; `stop_after` runs a kill comes.
    """

    queues: dict[str, Queue]
    fail: Fail = lambda _: None
    stop_after: int | None = None
    drop_every: int = 0
    played: list[LoadTestRequest] = field(default_factory=list)

    def __call__(self, request: LoadTestRequest, progress: Progress) -> RunManifest:
        if self.stop_after is not None and len(self.played) >= self.stop_after:
            raise KeyboardInterrupt
        self.played.append(request)
        window_s, lead_in_s = request.duration_s, request.warmup_s
        seed, rate = (request.workload.seed, 0), request.level.rate_per_s
        assert rate is not None
        progress("load", window_s / 2, window_s)
        arrivals = arrival_times_s(Poisson(rate_per_s=rate), lead_in_s + window_s, seed)
        records = [r for arm, m in enumerate(request.arms) for r in self.queues[m].records(m, arm, arrivals, lead_in_s)]
        if self.drop_every:
            records = [replace(r, error="closed: x") if r.index % self.drop_every == 0 else r for r in records]
        windows = tuple(
            Window(arm=arm, block=0, start_s=lead_in_s, end_s=lead_in_s + window_s) for arm in range(len(request.arms))
        )
        manifest = self._manifest(request, records, windows)
        request.out.mkdir(parents=True)
        write_requests(request.out / REQUESTS_NAME, records)
        manifest.save(request.out / RUN_NAME)
        return manifest

    def _manifest(
        self, request: LoadTestRequest, records: list[RequestRecord], windows: tuple[Window, ...]
    ) -> RunManifest:
        failed = self.fail(request)
        gate = Gate(name=failed or "error share", observed=1, limit=0, unit="", passed=not failed, cause="", remedy="")
        return RunManifest(
            url=request.url,
            models=request.models,
            against=request.against,
            level=request.level,
            workload=request.workload,
            duration_s=request.duration_s,
            blocks=1,
            warmup_s=request.warmup_s,
            gates=(gate,),
            arms=summarise_arms(request.arms, records, windows, {}),
            comparisons=() if request.against is None else compare_arms(request.arms, records, windows),
            windows=windows,
            provenance=NOWHERE,
        )
