"""What does one segment of a plan play? Its times, and each of its requests as it goes on the wire.

Request `index` is a function of plan, segment and `index` alone: of several processes that share a segment each makes
its own requests and no others'.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.arrivals import Replay
from loadtest.arrivals import arrival_times_s
from loadtest.lengths import lengths_of
from loadtest.mix import model_of
from loadtest.plan import Plan, Segment
from loadtest.prompts import first_output_tokens, messages, prompt_ids, request_body


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request before it is sent. `prompt_tokens` is None where only the server can count them."""

    model: str
    prompt_tokens: int | None
    output_tokens: int
    body: bytes


def start_times_s(plan: Plan, segment: Segment) -> tuple[float, ...]:
    """When the open loop's requests start, from the segment's start: the same for all arms of a block.

    Drawn schedules differ from block to block; of a trace, blocks play consecutive slices.
    """
    arrivals = plan.level.arrivals
    assert arrivals is not None
    if isinstance(arrivals, Replay):
        assert plan.trace is not None
        zero_s = segment.block * plan.segment_s
        return tuple(plan.trace.times_s[row] - zero_s for row in plan.rows(segment.block))
    return arrival_times_s(arrivals, plan.segment_s, (plan.workload.seed, segment.block), plan.lead_in_s)


def planned_request(plan: Plan, segment: Segment, index: int) -> PlannedRequest:
    """A closed loop's first requests are cut if a lead-in can hold them; without one they are measured."""
    asked = lengths_of(plan, segment.block, index)
    tokens, streams = asked.output_tokens, plan.level.concurrency or 0
    if index < streams and plan.lead_in_s > 0:
        tokens = first_output_tokens(tokens, index, streams)
    model = model_of(plan, segment, index)
    prompt = messages(plan, segment, index) if plan.conversations else prompt_ids(plan, segment, index)
    return PlannedRequest(
        model=model,
        prompt_tokens=asked.prompt_tokens,
        output_tokens=tokens,
        body=request_body(model, prompt, tokens, plan.workload.natural_ends),
    )
