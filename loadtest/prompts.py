"""What does request i of a block say? Token ids of exact number, equal for all arms but for a salt.

Ids instead of text: their number is exact under any tokenizer and nothing is tokenized on the clock. The salt stands
first because a prefix cache matches from the front: after different first tokens nothing behind them can hit.
"""

from __future__ import annotations

import json

import numpy as np

from loadtest.plan import Plan, Segment

SALT_TOKENS = 4


def prompt_ids(plan: Plan, segment: Segment, index: int) -> list[int]:
    """The ids of request `index`, a function of (seed, block, index), after a salt from (nonce, arm, block).

    At most half of a prompt is salt, at least one token.
    """
    total = plan.workload.prompt_tokens
    salt = min(SALT_TOKENS, max(1, total // 2))
    head = _draw(plan, salt, (plan.nonce, segment.arm, segment.block))
    return head + _draw(plan, total, (plan.workload.seed, segment.block, index))[salt:]


def request_body(model: str, ids: list[int], output_tokens: int) -> bytes:
    """The JSON of a streamed completion that ends after exactly `output_tokens`."""
    fields = {
        "model": model,
        "prompt": ids,
        "max_tokens": output_tokens,
        "min_tokens": output_tokens,
        "ignore_eos": True,
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


def _draw(plan: Plan, count: int, seed: tuple[int, ...]) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(*plan.token_range, size=count).tolist()
    return ids
