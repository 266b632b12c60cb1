"""Who sends what when: plays a plan's segments one after the other on gevent, and turns what came back into records.

Parsing, statistics and garbage collection wait for the pauses between segments, when no stream is on the clock.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time

import gevent

from artifacts.priority import served_first
from artifacts.run import RequestRecord, Window
from loadtest.arrivals import arrival_times_s
from loadtest.exchange import Exchange, Place, record_of
from loadtest.loop_lag import LagSampler
from loadtest.plan import Outcome, Plan, Segment
from loadtest.prompts import first_output_tokens, prompt_ids, request_body

Send = Callable[[bytes, int], Exchange]
Tell = Callable[[float, float], None]

_SETTLE_NS = 20 * 10**6  # between the last preparation and the first request of a segment
_SPIN_NS = 10**6  # the event loop's timers are good to a millisecond: the last one is waited in yields
_BACKOFF_S = 0.05  # after a refusal, so that a dead server is not asked ten thousand times a second
_TELL_S = 0.5


@dataclass(slots=True)
class _Stage:
    """A segment while it is played; `bodies` were encoded before it started."""

    segment: Segment
    start_ns: int
    window_ns: tuple[int, int]
    bodies: list[bytes]
    indices: Iterator[int] = field(default_factory=itertools.count)
    exchanges: list[tuple[int, Exchange]] = field(default_factory=list)
    cpu_s: float = 0.0
    served_first: bool = False


class Conductor:
    """`send` performs one request; `tell(done_s, total_s)` hears how far the run is, `heard` each record."""

    def __init__(self, plan: Plan, send: Send, tell: Tell, heard: Callable[[RequestRecord], None]) -> None:
        self._plan, self._send, self._tell, self._heard = plan, send, tell, heard
        self._records: list[RequestRecord] = []
        self._windows: list[Window] = []
        self._likely_requests = 4 * (plan.level.concurrency or 0)
        self._lag = LagSampler()
        self._zero_ns = 0

    def play(self) -> tuple[list[RequestRecord], Outcome]:
        """Plays the whole plan; takes its time."""
        self._zero_ns = perf_counter_ns()
        cpu_s, first = 0.0, True
        for number, segment in enumerate(self._plan.segments):
            gc.collect()
            gc.disable()
            stage = self._prepare(segment)
            ticker = gevent.spawn(self._tick, stage, number)
            with served_first() as stage.served_first:
                self._perform(stage)
            gc.enable()
            ticker.kill()
            cpu_s += stage.cpu_s
            first = first and stage.served_first
            self._reduce(stage)
        self._tell(self._plan.planned_s, self._plan.planned_s)
        outcome = Outcome(
            windows=tuple(self._windows),
            client_cpu_s=cpu_s,
            served_first=first,
            loop_lags_s=tuple(self._lag.lags_s),
        )
        return self._records, outcome

    def _prepare(self, segment: Segment) -> _Stage:
        count = self._likely_requests if self._plan.level.loop == "closed" else len(self._arrivals_s(segment))
        bodies = [self._body(segment, index) for index in range(count)]
        start_ns = perf_counter_ns() + _SETTLE_NS
        open_ns = start_ns + round(self._plan.lead_in_s * 1e9)
        return _Stage(segment, start_ns, (open_ns, open_ns + round(self._plan.window_s * 1e9)), bodies)

    def _arrivals_s(self, segment: Segment) -> tuple[float, ...]:
        level = self._plan.level
        assert level.rate_per_s is not None
        assert level.arrivals is not None
        seed = (self._plan.workload.seed, segment.block)
        return arrival_times_s(level.arrivals, level.rate_per_s, self._plan.lead_in_s + self._plan.window_s, seed)

    def _body(self, segment: Segment, index: int) -> bytes:
        tokens, streams = self._plan.workload.output_tokens, self._plan.level.concurrency or 0
        if index < streams and self._plan.lead_in_s > 0:  # without a lead-in the first requests are measured ones
            tokens = first_output_tokens(tokens, index, streams)
        return request_body(self._plan.arms[segment.arm], prompt_ids(self._plan, segment, index), tokens)

    def _perform(self, stage: _Stage) -> None:
        meter = gevent.spawn(self._meter, stage)
        watcher = gevent.spawn(self._lag.watch, *stage.window_ns)
        if self._plan.level.concurrency is not None:
            streams = [gevent.spawn(self._stream, stage) for _ in range(self._plan.level.concurrency)]
        else:
            streams = self._dispatch(stage)
        gevent.joinall([meter, watcher, *streams], raise_error=True)

    def _stream(self, stage: _Stage) -> None:
        """One of the closed loop's streams: the next request starts when the last has ended."""
        _wait_until(stage.start_ns)
        now_ns = stage.start_ns
        while now_ns < stage.window_ns[1]:
            index = next(stage.indices)
            body = stage.bodies[index] if index < len(stage.bodies) else self._body(stage.segment, index)
            exchange = self._send(body, now_ns)
            stage.exchanges.append((index, exchange))
            if exchange.refused:
                gevent.sleep(_BACKOFF_S)
            now_ns = perf_counter_ns()

    def _dispatch(self, stage: _Stage) -> list[gevent.Greenlet]:
        """The open loop: each request at its time, in a greenlet of its own, however many are under way."""

        def one(index: int, scheduled_ns: int) -> None:
            stage.exchanges.append((index, self._send(stage.bodies[index], scheduled_ns)))

        flying = []
        for index, at_s in enumerate(self._arrivals_s(stage.segment)):
            scheduled_ns = stage.start_ns + round(at_s * 1e9)
            _wait_until(scheduled_ns)
            flying.append(gevent.spawn(one, index, scheduled_ns))
        return flying

    def _meter(self, stage: _Stage) -> None:
        _wait_until(stage.window_ns[0])
        before_s = process_time()
        _wait_until(stage.window_ns[1])
        stage.cpu_s = process_time() - before_s

    def _tick(self, stage: _Stage, number: int) -> None:
        each_s = self._plan.lead_in_s + self._plan.window_s
        while True:
            into_s = min(each_s, max(0.0, (perf_counter_ns() - stage.start_ns) / 1e9))
            self._tell(number * each_s + into_s, self._plan.planned_s)
            gevent.sleep(_TELL_S)

    def _reduce(self, stage: _Stage) -> None:
        segment, (open_ns, close_ns) = stage.segment, stage.window_ns
        self._likely_requests = max(self._likely_requests, len(stage.exchanges) * 5 // 4)
        for index, exchange in sorted(stage.exchanges, key=lambda pair: pair[0]):
            warmup = exchange.scheduled_ns < open_ns
            place = Place(
                model=self._plan.arms[segment.arm], arm=segment.arm, block=segment.block, index=index, warmup=warmup
            )
            record = record_of(exchange, place, self._zero_ns)
            self._records.append(record)
            self._heard(record)
        start_s, end_s = ((t - self._zero_ns) / 1e9 for t in (open_ns, close_ns))
        self._windows.append(Window(arm=segment.arm, block=segment.block, start_s=start_s, end_s=end_s))


def _wait_until(target_ns: int) -> None:
    """Never returns early: a sleep may, as the loop counts it from when it last looked at the clock."""
    while (remaining_ns := target_ns - perf_counter_ns()) > _SPIN_NS:
        gevent.sleep((remaining_ns - _SPIN_NS) / 1e9)
    while perf_counter_ns() < target_ns:
        gevent.sleep(0)
