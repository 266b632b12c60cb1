"""What a compression will need, said before it begins: memory by stage and purpose, and an expected time.

The bytes follow from shapes alone (`buffers`). The time is the count of multiply-adds over the rate of one small matrix
product measured here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from artifacts.units import format_bytes, format_seconds
from artifacts.variant import UNACCELERATED
from compressors.buffers import Purposes, stage_buffers
from compressors.shards import Stored
from compressors.together import ROUNDS
from compressors.workload import Workload

_FLOAT32 = 4
_PROBE_SIZE = 768
_BLOCKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCard:
    """Bytes of the largest block in float32; by stage and purpose the bytes of everything else that is alive at once.

    A stage takes up to `blocks` beside its buffers: the one at work, what it is cut into, and what is read or written
    meanwhile; of blocks that are pruned together the last two attempts.
    """

    block_bytes: int
    stages: Mapping[str, Purposes]
    expected_s: float
    masks: bool = False
    blocks: int = _BLOCKS

    @property
    def buffers_bytes(self) -> int:
        """Everything but blocks, of the stage that needs most."""
        return max((sum(purposes.values()) for purposes in self.stages.values()), default=0)

    def lines(self) -> tuple[str, ...]:
        """For people: a block, a stage's buffers a line, the time."""
        stages = [
            f"{stage}: {', '.join(f'{name} {format_bytes(size)}' for name, size in purposes.items())}"
            for stage, purposes in self.stages.items()
        ]
        block = f"one block: {format_bytes(self.block_bytes)}, up to {self.blocks} at once"
        remarks = (UNACCELERATED,) if self.masks else ()
        return (block, *stages, *remarks, f"expected time: {format_seconds(self.expected_s)}, verification not counted")


def resource_card(stored: Mapping[str, Stored], workload: Workload) -> ResourceCard:
    """`stored` are the checkpoint's tensors by name. Measures the machine's speed for about a tenth of a second."""
    blocks: dict[str, int] = {}
    for name, tensor in stored.items():
        if name.startswith("model.layers."):
            index = name.split(".")[2]
            blocks[index] = blocks.get(index, 0) + tensor.header.elements
    return ResourceCard(
        block_bytes=max(blocks.values()) * _FLOAT32,
        stages=stage_buffers(workload),
        expected_s=_operations(workload, sum(blocks.values())) / _operations_per_s(),
        masks=workload.masks,
        blocks=_BLOCKS if workload.together == 1 else 2 * workload.together + 2,
    )


def _operations(workload: Workload, block_elements: int) -> float:
    """Every stream's forward pass, and the pruned one's once more to observe; Gram and cross products; solving;
    the drawn masks' passes."""
    passes = 0 if not workload.streams else workload.streams + 1
    forward = 2.0 * workload.tokens * block_elements * passes
    learning = 2.0 * block_elements * prod(workload.drawn)
    return forward * (1 + workload.products) * _attempts(workload) + learning


def _attempts(workload: Workload) -> int:
    """How often a block is cut at most where several go together."""
    return 1 if workload.together == 1 else 1 + ROUNDS.most


def _operations_per_s() -> float:
    matrix = torch.rand(_PROBE_SIZE, _PROBE_SIZE)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * _PROBE_SIZE**3 / (time.perf_counter() - started)
