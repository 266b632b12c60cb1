"""Who sends what when: plays a plan's segments one after the other on gevent, and turns what came back into records.

Parsing, statistics and garbage collection wait for the pauses between segments, when no stream is on the clock.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time

import gevent

from artifacts.priority import served_first
from artifacts.run import RequestRecord, Window
from loadtest.energy_watch import EnergyWatch
from loadtest.exchange import Exchange, Place, record_of
from loadtest.loop_lag import LagSampler
from loadtest.plan import Outcome, Plan, Segment
from loadtest.schedule import PlannedRequest, planned_request, start_times_s
from loadtest.share import Share

Send = Callable[[bytes, int], Exchange]
Tell = Callable[[float, float], None]

_SPIN_NS = 10**6  # the event loop's timers are good to a millisecond: the last one is waited in yields
_BACKOFF_S = 0.05  # after a refusal, so that a dead server is not asked ten thousand times a second
_TELL_S = 0.5


@dataclass(slots=True)
class _Stage:
    """A segment while it is played; `requests` and, of an open loop, `times_s` were drawn before it started."""

    segment: Segment
    start_ns: int
    window_ns: tuple[int, int]
    times_s: tuple[float, ...]
    requests: dict[int, PlannedRequest]
    indices: Iterator[int]
    exchanges: list[tuple[int, PlannedRequest, Exchange]] = field(default_factory=list)
    cpu_s: float = 0.0
    served_first: bool = False


class Conductor:
    """`send` performs one request; `tell(done_s, total_s)` hears how far the run is, `heard` each record.

    `energy` is None in a process that leaves the machine's meters to another.
    """

    def __init__(
        self,
        plan: Plan,
        send: Send,
        tell: Tell,
        heard: Callable[[RequestRecord], None],
        share: Share | None = None,
        energy: EnergyWatch | None = None,
    ) -> None:
        self._plan, self._send, self._tell, self._heard = plan, send, tell, heard
        self._share = share or Share()
        self._energy = energy
        self._records: list[RequestRecord] = []
        self._windows: list[Window] = []
        self._likely_requests = 4 * (plan.level.concurrency or 0)
        self._lag = LagSampler()
        self._zero_ns = 0

    def play(self) -> tuple[list[RequestRecord], Outcome]:
        """Plays its share of the whole plan; takes its time. Zero of all times is the start of the first segment."""
        cpu_s, first = 0.0, True
        if self._energy is not None:
            self._energy.rest()
        for number, segment in enumerate(self._plan.segments):
            gc.collect()
            gc.disable()
            stage = self._prepare(segment, number)
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
            energy=None if self._energy is None else self._energy.log(),
        )
        return self._records, outcome

    def _prepare(self, segment: Segment, number: int) -> _Stage:
        times_s = () if self._plan.level.loop == "closed" else start_times_s(self._plan, segment)
        count = self._likely_requests if self._plan.level.loop == "closed" else len(times_s)
        requests = {index: planned_request(self._plan, segment, index) for index in self._share.indices(count)}
        start_ns = self._share.meet(number)
        self._zero_ns = self._zero_ns or start_ns
        open_ns = start_ns + round(self._plan.lead_in_s * 1e9)
        window_ns = (open_ns, open_ns + round(self._plan.window_s * 1e9))
        return _Stage(segment, start_ns, window_ns, times_s, requests, self._share.indices())

    def _perform(self, stage: _Stage) -> None:
        meter = gevent.spawn(self._meter, stage)
        watchers = [gevent.spawn(self._lag.watch, *stage.window_ns)]
        if self._energy is not None:
            place = stage.segment.arm, stage.segment.block
            watchers.append(gevent.spawn(self._energy.watch, *place, *stage.window_ns))
        if self._plan.level.concurrency is not None:
            streams = [gevent.spawn(self._stream, stage, start_ns) for start_ns in self._starts_ns(stage)]
        else:
            streams = self._dispatch(stage)
        gevent.joinall([meter, *watchers, *streams], raise_error=True)

    def _starts_ns(self, stage: _Stage) -> Iterator[int]:
        """One after the other over half of the lead-in: streams that begin together are in step for seconds."""
        streams = self._plan.level.concurrency or 0
        each_ns = round(self._plan.lead_in_s * 1e9 / 2) // max(1, streams)
        return (stage.start_ns + number * each_ns for number in self._share.indices(streams))

    def _stream(self, stage: _Stage, now_ns: int) -> None:
        """One of the closed loop's streams, from `now_ns` on: the next request starts when the last has ended."""
        _wait_until(now_ns)
        while now_ns < stage.window_ns[1]:
            index = next(stage.indices)
            request = stage.requests.get(index) or planned_request(self._plan, stage.segment, index)
            exchange = self._send(request.body, now_ns)
            stage.exchanges.append((index, request, exchange))
            if exchange.refused:
                gevent.sleep(_BACKOFF_S)
            now_ns = perf_counter_ns()

    def _dispatch(self, stage: _Stage) -> list[gevent.Greenlet]:
        """The open loop: each request at its time, in a greenlet of its own, however many are under way."""

        def one(index: int, scheduled_ns: int) -> None:
            request = stage.requests[index]
            stage.exchanges.append((index, request, self._send(request.body, scheduled_ns)))

        flying = []
        for index in stage.requests:
            scheduled_ns = stage.start_ns + round(stage.times_s[index] * 1e9)
            _wait_until(scheduled_ns)
            flying.append(gevent.spawn(one, index, scheduled_ns))
        return flying

    def _meter(self, stage: _Stage) -> None:
        _wait_until(stage.window_ns[0])
        before_s = process_time()
        _wait_until(stage.window_ns[1])
        stage.cpu_s = process_time() - before_s

    def _tick(self, stage: _Stage, number: int) -> None:
        each_s = self._plan.segment_s
        while True:
            into_s = min(each_s, max(0.0, (perf_counter_ns() - stage.start_ns) / 1e9))
            self._tell(number * each_s + into_s, self._plan.planned_s)
            gevent.sleep(_TELL_S)

    def _reduce(self, stage: _Stage) -> None:
        segment, (open_ns, close_ns) = stage.segment, stage.window_ns
        self._likely_requests = max(self._likely_requests, self._share.parts * len(stage.exchanges) * 5 // 4)
        for index, request, exchange in sorted(stage.exchanges, key=lambda entry: entry[0]):
            place = Place(
                model=request.model,
                arm=segment.arm,
                block=segment.block,
                index=index,
                warmup=exchange.scheduled_ns < open_ns,
                asked_prompt_tokens=request.prompt_tokens,
                asked_output_tokens=request.output_tokens,
            )
            record = record_of(exchange, place, self._zero_ns)
            self._records.append(record)
            self._heard(record)
            gevent.sleep(0)  # parsing may take seconds: a worker that is silent so long is taken for dead
        start_s, end_s = ((t - self._zero_ns) / 1e9 for t in (open_ns, close_ns))
        self._windows.append(Window(arm=segment.arm, block=segment.block, start_s=start_s, end_s=end_s))


def _wait_until(target_ns: int) -> None:
    """Never returns early: a sleep may, as the loop counts it from when it last looked at the clock."""
    while (remaining_ns := target_ns - perf_counter_ns()) > _SPIN_NS:
        gevent.sleep((remaining_ns - _SPIN_NS) / 1e9)
    while perf_counter_ns() < target_ns:
        gevent.sleep(0)
