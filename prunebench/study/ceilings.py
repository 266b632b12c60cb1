"""What could a cell's engines do at most here, and what did they say of themselves? Beside the measured speeds.

The roofline is that of a checkpoint as an engine runs it: an embedding that is not also the head is looked up, not
read, and eight-bit engines hold the blocks' matrices in one byte a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts.hardware import Hardware
from artifacts.traffic import Level, Workload
from compressors.source import is_tied, resolve_config
from laws.ceiling import mean_context_tokens
from laws.hardware import measure_cpu
from laws.roofline import decode_ceiling
from modeling.device_speed import measure_gpu
from prunebench.study.checkpoints import Checkpoint

ROOFLINE = "roofline_step_s"
REACHED = "reached_of_roofline"
CAPACITY = "kv_capacity_tokens"
_BEYOND_CACHES_BYTES = 1 << 30
EIGHT_BIT_FLAGS = ("fp8", "int8_per_channel_weight_only")


def hardware_here(device: Literal["cpu", "cuda"], weights_bytes: int) -> Hardware:
    """Measured now: about two seconds. `weights_bytes` is what a CPU reads again and again."""
    return measure_gpu() if device == "cuda" else measure_cpu(min(weights_bytes, _BEYOND_CACHES_BYTES))


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of both models; no interval, for it was not drawn from a sample."""

    quantity: str
    base_value: float
    value: float
    speedup: float
    unit: str


def is_eight_bit(checkpoint: Checkpoint) -> bool:
    return any(flag in checkpoint.engine_flags for flag in EIGHT_BIT_FLAGS)


def held_bytes(checkpoint: Checkpoint) -> int:
    """The weights in an engine's memory; embedding and head stay in the checkpoint's type."""
    footprint = checkpoint.footprint
    saved = footprint.params_blocks * (_element_bytes(checkpoint) - 1) if is_eight_bit(checkpoint) else 0
    return footprint.weights_bytes - saved


def read_bytes(checkpoint: Checkpoint) -> int:
    """What a decode step reads of them."""
    config = resolve_config(checkpoint.folder)
    embedding = int(config["vocab_size"]) * int(config["hidden_size"]) * _element_bytes(checkpoint)
    return held_bytes(checkpoint) - (0 if is_tied(config) else embedding)


def roofline_row(
    workload: Workload, level: Level, hardware: Hardware, base: Checkpoint, made: Checkpoint
) -> Row | None:
    """The least seconds of a decode step in a closed loop. None for an open one, whose batch is not fixed, and for
    lengths of unknown mean."""
    context = mean_context_tokens(workload)
    if level.concurrency is None or context is None:
        return None
    steps = []
    for each in (base, made):
        as_read = each.footprint.model_copy(update={"weights_bytes": read_bytes(each)})
        steps.append(decode_ceiling(as_read, hardware, level.concurrency, context).step_s)
    return Row(ROOFLINE, steps[0], steps[1], steps[0] / steps[1], "s")


def reached_row(roofline: Row, tpot_s: tuple[float, float]) -> Row:
    """Least step over the measured median TPOT of base and variant: 1 is all that the hardware allows."""
    shares = (roofline.base_value / tpot_s[0], roofline.value / tpot_s[1])
    return Row(REACHED, *shares, shares[1] / shares[0], "1")


def capacity_row(tokens: Mapping[str, int], base: str, variant: str) -> Row | None:
    """How many tokens the engines' KV caches hold; None where they do not say."""
    if base not in tokens or variant not in tokens:
        return None
    held = (float(tokens[base]), float(tokens[variant]))
    return Row(CAPACITY, *held, held[1] / held[0], "tokens")


def _element_bytes(checkpoint: Checkpoint) -> int:
    return round(checkpoint.footprint.weights_bytes / checkpoint.footprint.params_total)
