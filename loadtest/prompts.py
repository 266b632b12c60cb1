"""What does request i of a block say? Token ids of exact number, or a conversation; equal for all arms but for a salt.

Ids instead of text: their number is exact under any tokenizer and nothing is tokenized on the clock. The salt stands
first because a prefix cache matches from the front: after different first tokens nothing behind them can hit. Where a
cache is what is measured, prompts begin with shared tokens, and the salt is the same for all of an arm's requests.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from loadtest.conversations import salted
from loadtest.draws import Purpose, generator
from loadtest.lengths import lengths_of, row_of
from loadtest.plan import Plan, Segment

SALT_TOKENS = 4


def prompt_ids(plan: Plan, segment: Segment, index: int) -> list[int]:
    """The ids of request `index`, a function of (seed, block, index), after a salt from (nonce, arm, block).

    At most half of a prompt is salt, at least one token.
    """
    total = lengths_of(plan, segment.block, index).prompt_tokens
    assert total is not None
    salt = min(SALT_TOKENS, max(1, total // 2))
    own = _ids(plan, total, np.random.default_rng((plan.workload.seed, segment.block, index)))
    shared = _shared_ids(plan, segment.block, index, total)[:total]
    head = _ids(plan, salt, np.random.default_rng(_salt_seed(plan, segment)))
    return head + (shared + own[len(shared) :])[salt:]


def messages(plan: Plan, segment: Segment, index: int) -> list[dict[str, str]]:
    """The conversation of request `index`, drawn by (seed, block, index); its salt is new for every request."""
    random = generator(plan.workload.seed, Purpose.CONVERSATION, segment.block, index)
    chosen = plan.conversations[int(random.integers(len(plan.conversations)))]
    return salted(chosen, (plan.nonce, segment.arm, segment.block, index))


def request_body(
    model: str, prompt: list[int] | list[dict[str, str]], output_tokens: int, natural: bool = False
) -> bytes:
    """The JSON of a streamed completion of token ids or messages that ends after exactly `output_tokens`.

    With `natural` it ends where the model ends it, after `output_tokens` at the latest.
    """
    chat = isinstance(prompt[0], dict)
    exact: dict[str, Any] = {} if natural else {"min_tokens": output_tokens, "ignore_eos": True}
    fields = {
        "model": model,
        "messages" if chat else "prompt": prompt,
        "max_tokens": output_tokens,
        **exact,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def first_output_tokens(output_tokens: int, stream: int, streams: int) -> int:
    """Length of the first request of a closed-loop stream, cut so that the streams' ends spread evenly.

    Streams that start together with equal lengths would prefill and decode in lockstep for the whole block, and a
    window would then count a phase of that beat, the same in every block, instead of the mean rate.
    """
    return max(1, -(-output_tokens * (stream + 1) // streams))


def _salt_seed(plan: Plan, segment: Segment) -> tuple[int, ...]:
    place = (segment.arm,) if plan.workload.shares_prefixes else (segment.arm, segment.block)
    return (plan.nonce, *place)


def _shared_ids(plan: Plan, block: int, index: int, total: int) -> list[int]:
    """What the prompt has in common with others, as far as it goes; shorter prompts share the beginning of it."""
    workload, trace = plan.workload, plan.trace
    if workload.prefix is not None:
        choice = generator(workload.seed, Purpose.PREFIX_CHOICE, block, index).integers(workload.prefix.prefixes)
        text = generator(workload.seed, Purpose.PREFIX, int(choice))
        return _ids(plan, round(total * workload.prefix.share), text)
    if trace is None or not trace.blocks or not workload.shares_prefixes:
        return []
    names = trace.blocks[row_of(plan, block, index)]
    blocks = (_ids(plan, trace.block_tokens, generator(workload.seed, Purpose.SHARED_BLOCK, name)) for name in names)
    return [token for ids in blocks for token in ids]


def _ids(plan: Plan, count: int, random: np.random.Generator) -> list[int]:
    ids: list[int] = random.integers(*plan.token_range, size=count).tolist()
    return ids
