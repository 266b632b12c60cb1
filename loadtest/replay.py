"""What of a trace does a run play? Scaled, cut into the blocks' slices, and kept in the plan, which needs no file then.

Blocks play consecutive slices: block b the b-th stretch of lead-in and window. Every arm of a block plays the same one,
so the ratio of a block compares like with like, and the run as a whole sees the traffic's good and bad minutes instead
of one minute many times.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.traffic import TraceSource
from loadtest.traces import MOONCAKE_BLOCK_TOKENS, TraceRequest, identified, read_trace


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _join(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.15g}" for value in values)


def _split_lists(value: Any) -> Any:
    return [part.split() for part in value.split(";")] if isinstance(value, str) else value


def _join_lists(values: tuple[tuple[int, ...], ...]) -> str:
    return ";".join(" ".join(map(str, value)) for value in values)


_TEXT = PlainSerializer(_join, return_type=str, when_used="json")  # a number a line would make megabytes of an hour
Seconds = Annotated[tuple[float, ...], BeforeValidator(_split), _TEXT]
Counts = Annotated[tuple[int, ...], BeforeValidator(_split), _TEXT]
Lists = Annotated[
    tuple[tuple[int, ...], ...],
    BeforeValidator(_split_lists),
    PlainSerializer(_join_lists, return_type=str, when_used="json"),
]


class ReplayedTrace(Document):
    """A trace's requests as they are played: `times_s` from the first block's start, lengths as they are asked for.

    `blocks` names, per request, blocks of `block_tokens` tokens that prompts share; empty where the trace has none.
    """

    source: TraceSource
    times_s: Seconds
    prompt_tokens: Counts
    output_tokens: Counts
    blocks: Lists = ()
    block_tokens: int = MOONCAKE_BLOCK_TOKENS

    def rows_between(self, start_s: float, end_s: float) -> range:
        """Numbers of the requests in [start_s, end_s)."""
        return range(bisect_left(self.times_s, start_s), bisect_left(self.times_s, end_s))


def replayed(source: TraceSource, needed_s: float | None) -> ReplayedTrace:
    """Reads and scales; with `needed_s`, only the requests before that time are kept.

    Raises ConfigError for what `read_trace` refuses, and for a span shorter than `needed_s` or empty until then.
    """
    source = identified(source)
    found = read_trace(source)
    scaled_s = [round(request.at_s * source.time_scale, 6) for request in found]
    if needed_s is not None:
        _require_length(source, found, needed_s)
        found = found[: bisect_left(scaled_s, needed_s)]
        if not found:
            raise ConfigError(
                f"{source.path} holds no request in the run's {needed_s:g} s. Choose another --trace-span."
            )
    return ReplayedTrace(
        source=source,
        times_s=tuple(scaled_s[: len(found)]),
        prompt_tokens=tuple(_scaled(r.prompt_tokens, source) for r in found),
        output_tokens=tuple(_scaled(r.output_tokens, source) for r in found),
        blocks=tuple(r.blocks for r in found) if any(r.blocks for r in found) else (),
        block_tokens=_scaled(MOONCAKE_BLOCK_TOKENS, source),
    )


def _require_length(source: TraceSource, found: tuple[TraceRequest, ...], needed_s: float) -> None:
    span_s = found[-1].at_s if source.to_s is None else source.to_s - source.from_s
    if span_s * source.time_scale < needed_s:
        raise ConfigError(
            f"{source.path} lasts {span_s * source.time_scale:g} s as it is replayed, the run {needed_s:g} s "
            "(all blocks' lead-ins and windows, one after the other). Shorten the run, raise --time-scale "
            "or widen --trace-span."
        )


def _scaled(tokens: int, source: TraceSource) -> int:
    """At least one: a recorded answer of no token still was a request."""
    return max(1, round(tokens * source.length_scale))
