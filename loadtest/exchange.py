"""From what the socket saw to the record that is kept: one request's raw capture and its reduction."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field

from artifacts.run import RequestRecord
from loadtest.sse import Answer, Read, parse_answer

_STAMP = struct.Struct("qq")  # struct timespec
_NS = 10**9
_CLOCK_TOLERANCE_NS = 100_000
_ATTEMPTS = 5


@dataclass(slots=True)
class Exchange:
    """A request as the socket saw it. Times in ns; `failure` is the transport's, `kind: what happened`.

    A read's time is the kernel's stamp as it came, or where there is none the performance counter. `ahead_ns`: how far
    the calendar clock, which stamps are made with, was ahead of that counter, when the request was sent and when done.
    """

    scheduled_ns: int
    sent_ns: int | None = None
    reads: list[tuple[int | bytes, bytes]] = field(default_factory=list)
    done_ns: int | None = None
    failure: str | None = None
    ahead_ns: tuple[int, int] = (0, 0)

    @property
    def refused(self) -> bool:
        """No answer with status 200 came: known without parsing."""
        return self.failure is not None or not self.reads or self.reads[0][1][9:12] != b"200"

    def timed_reads(self) -> list[Read]:
        """With all times on the performance counter."""
        ahead_ns = self.ahead_ns[1]
        return [(t if isinstance(t, int) else _stamped_ns(t) - ahead_ns, data) for t, data in self.reads]

    @property
    def clock_was_set(self) -> bool:
        """Somebody set the calendar clock meanwhile: the stamps cannot be told from the counter."""
        stamped = any(not isinstance(t, int) for t, _ in self.reads)
        return stamped and abs(self.ahead_ns[1] - self.ahead_ns[0]) > _CLOCK_TOLERANCE_NS


def calendar_ahead_ns() -> int:
    """Calendar clock minus performance counter. Both run at one rate; setting the clock changes the difference."""
    best = (_NS, 0)
    for _ in range(_ATTEMPTS):  # somebody else may run between the readings: the tightest bracket counts
        before_ns = time.perf_counter_ns()
        calendar_ns = time.time_ns()
        after_ns = time.perf_counter_ns()
        best = min(best, (after_ns - before_ns, calendar_ns - (before_ns + after_ns) // 2))
        if best[0] < 2_000:
            break
    return best[1]


def _stamped_ns(stamp: bytes) -> int:
    seconds, rest_ns = _STAMP.unpack(stamp)
    return int(seconds * _NS + rest_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request belongs in the run, and the lengths it asked for."""

    model: str
    arm: int
    block: int
    index: int
    warmup: bool
    asked_prompt_tokens: int | None = None
    asked_output_tokens: int | None = None


def record_of(exchange: Exchange, place: Place, zero_ns: int) -> RequestRecord:
    """Parses the reads; times become seconds since `zero_ns`. A transport failure outranks what the bytes say."""
    answer = parse_answer(exchange.timed_reads()) if exchange.reads else Answer()
    clock = "clock: the system's clock was set during the request" if exchange.clock_was_set else None

    def seconds(time_ns: int | None) -> float | None:
        return None if time_ns is None else (time_ns - zero_ns) / 1e9

    events = answer.event_ns
    return RequestRecord(
        model=place.model,
        arm=place.arm,
        block=place.block,
        index=place.index,
        warmup=place.warmup,
        asked_prompt_tokens=place.asked_prompt_tokens,
        asked_output_tokens=place.asked_output_tokens,
        scheduled_s=(exchange.scheduled_ns - zero_ns) / 1e9,
        sent_s=seconds(exchange.sent_ns),
        first_s=seconds(events[0] if events else None),
        last_s=seconds(events[-1] if events else None),
        done_s=seconds(exchange.done_ns),
        status=answer.status,
        error=exchange.failure or clock or answer.error,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        finish_reason=answer.finish_reason,
        reads=len(exchange.reads),
        event_s=tuple((t - zero_ns) / 1e9 for t in events),
    )
