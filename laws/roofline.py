"""The ceiling: how fast decoding could be if memory bandwidth or arithmetic were the only limit.

One decode step reads all weights once and the KV cache of every sequence, and multiplies each weight with each
sequence's activation. Whichever takes longer bounds the step:

    step_s = max((weights_bytes + batch * context_tokens * kv_bytes_per_token) / memory_bytes_per_s,
                 batch * flops_per_token / flops_per_s)

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009. Attention's own arithmetic is left out: at the
contexts measured here it is small, and leaving it out keeps this a true upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.hardware import Hardware as Hardware
from artifacts.variant import Footprint


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The roofline's bound on one decode step of `batch` sequences with `context_tokens` each in the cache."""

    step_s: float
    bound_by: str
    tokens_per_s: float


def decode_ceiling(footprint: Footprint, hardware: Hardware, batch: int, context_tokens: float) -> Ceiling:
    moved_bytes = footprint.weights_bytes + batch * context_tokens * footprint.kv_bytes_per_token
    memory_s = moved_bytes / hardware.memory_bytes_per_s
    compute_s = batch * footprint.flops_per_token / hardware.flops_per_s
    step_s = max(memory_s, compute_s)
    return Ceiling(step_s, "memory" if memory_s >= compute_s else "compute", batch / step_s)
