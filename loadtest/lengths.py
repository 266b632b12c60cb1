"""How long is request i? Drawn from its law by seed, block and number alone, and cut where the model cannot hold it.

Arms play no part, so that all arms of a block get the same lengths; nor does any other request, so that any process
can ask for any share of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from artifacts.arrivals import Replay
from artifacts.lengths import Length, LogNormalTokens, NormalTokens, TraceTokens, UniformTokens
from artifacts.traffic import Workload
from loadtest.draws import Purpose, generator
from loadtest.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`prompt_tokens` is None for a conversation; `clipped`: the law said more than the context holds."""

    prompt_tokens: int | None
    output_tokens: int
    clipped: bool = False


def lengths_of(plan: Plan, block: int, index: int) -> Asked:
    """The lengths that request `index` of a block asks for.

    If both together exceed the plan's context, the answer keeps up to half of it and the prompt gets the rest.
    """
    workload, limit = plan.workload, plan.context_tokens
    recorded = _recorded(plan, block, index) if workload.uses_trace else (0, 0)

    def drawn(length: Length, purpose: Purpose, recorded_tokens: int) -> int:
        if isinstance(length, int):
            return length
        if isinstance(length, TraceTokens):
            return recorded_tokens
        return _drawn(length, generator(workload.seed, purpose, block, index))

    output = drawn(workload.output_tokens, Purpose.OUTPUT_LENGTH, recorded[1])
    if workload.prompt_tokens is None:
        return Asked(prompt_tokens=None, output_tokens=output)
    prompt = drawn(workload.prompt_tokens, Purpose.PROMPT_LENGTH, recorded[0])
    if limit is None or prompt + output <= limit:
        return Asked(prompt_tokens=prompt, output_tokens=output)
    kept = min(output, max(1, limit // 2))
    return Asked(prompt_tokens=min(prompt, max(1, limit - kept)), output_tokens=kept, clipped=True)


def longest_tokens(length: Length | None) -> int | None:
    """The most that a law can say, None where it has no bound or is not ours to know."""
    if length is None or isinstance(length, int):
        return length
    return length.high if isinstance(length, UniformTokens | NormalTokens) else None


def row_of(plan: Plan, block: int, index: int) -> int:
    """The trace's request that request `index` of a block is: its own, or a drawn one where the times are others'."""
    assert plan.trace is not None
    if isinstance(plan.level.arrivals, Replay):
        return plan.rows(block)[index]
    return int(generator(plan.workload.seed, Purpose.TRACE_ROW, block, index).integers(len(plan.trace.times_s)))


def _recorded(plan: Plan, block: int, index: int) -> tuple[int, int]:
    assert plan.trace is not None
    row = row_of(plan, block, index)
    return plan.trace.prompt_tokens[row], plan.trace.output_tokens[row]


def _drawn(law: UniformTokens | LogNormalTokens | NormalTokens, random: np.random.Generator) -> int:
    if isinstance(law, UniformTokens):
        return int(random.integers(law.low, law.high + 1))
    if isinstance(law, LogNormalTokens):
        return max(1, round(law.median * float(np.exp(law.sigma * random.standard_normal()))))
    tokens = max(law.low, round(law.mean + law.std * float(random.standard_normal())))
    return tokens if law.high is None else min(tokens, law.high)


def longest_request_tokens(workload: Workload) -> int | None:
    """The most that a prompt and its output can be together; None where that has no bound."""
    parts = (longest_tokens(workload.prompt_tokens), longest_tokens(workload.output_tokens))
    return None if None in parts else sum(part for part in parts if part is not None)
