"""From what the socket saw to the record that is kept: one request's raw capture and its reduction."""

from __future__ import annotations

from dataclasses import dataclass, field

from artifacts.run import RequestRecord
from loadtest.sse import Answer, Read, parse_answer


@dataclass(slots=True)
class Exchange:
    """A request as the socket saw it. Times in ns; `failure` is the transport's, `kind: what happened`."""

    scheduled_ns: int
    sent_ns: int | None = None
    reads: list[Read] = field(default_factory=list)
    done_ns: int | None = None
    failure: str | None = None

    @property
    def refused(self) -> bool:
        """No answer with status 200 came: known without parsing."""
        return self.failure is not None or not self.reads or self.reads[0][1][9:12] != b"200"


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
    answer = parse_answer(exchange.reads) if exchange.reads else Answer()

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
        error=exchange.failure or answer.error,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        finish_reason=answer.finish_reason,
        reads=len(exchange.reads),
        event_s=tuple((t - zero_ns) / 1e9 for t in events),
    )
