"""What a compression will need, said before it begins: memory by purpose and an expected time.

Only the hidden states grow with the calibration text and only the statistics with the square of the widths; both are
known from shapes alone. The time is the count of multiply-adds over the rate of one small matrix product measured here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from artifacts.units import format_bytes, format_seconds
from compressors.shards import Stored
from compressors.statistics import WIDE
from compressors.streams import piece_tokens

_FLOAT32 = 4
_FLOAT64 = 8
# A layer's input, normed input and two products of the FFN's width are alive at once within a piece.
_LIVE_PRODUCTS = 4
# Factor, damped and sliced Gram matrix in float64; sliced, missing, fitted and solved weights.
_SQUARES, _RECTANGLES = 3, 4
_PROBE_SIZE = 768


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What decides memory and time: the calibration's tokens and which sums are kept of them."""

    tokens: int
    window_tokens: int
    hidden: int
    ffn_width: int
    attention_width: int
    streams: int
    products: bool
    second_order: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCard:
    """Bytes by purpose, in float32 unless stated: a block, the calibration's hidden states, the Gram matrix with cross
    products of the widest consumer, what choosing and repairing takes beside it, a piece's intermediate values."""

    block_bytes: int
    states_bytes: int
    statistics_bytes: int
    repair_bytes: int
    piece_bytes: int
    expected_s: float

    @property
    def buffers_bytes(self) -> int:
        """Everything but blocks."""
        return self.states_bytes + self.statistics_bytes + self.repair_bytes + self.piece_bytes

    def lines(self) -> tuple[str, ...]:
        """For people, one purpose a line."""
        purposes = {
            "one block": self.block_bytes,
            "hidden states of the calibration text": self.states_bytes,
            "Gram and cross products": self.statistics_bytes,
            "choice and repair": self.repair_bytes,
            "intermediate values": self.piece_bytes,
        }
        wanted = [f"{name}: {format_bytes(size)}" for name, size in purposes.items() if size]
        return (*wanted, f"expected time: {format_seconds(self.expected_s)}, verification not counted")


def resource_card(stored: Mapping[str, Stored], workload: Workload) -> ResourceCard:
    """`stored` are the checkpoint's tensors by name. Measures the machine's speed for about a tenth of a second."""
    blocks: dict[str, int] = {}
    for name, tensor in stored.items():
        if name.startswith("model.layers."):
            index = name.split(".")[2]
            blocks[index] = blocks.get(index, 0) + tensor.header.elements
    largest, hidden = max(blocks.values()), workload.hidden
    widest = max(workload.ffn_width, workload.attention_width)
    return ResourceCard(
        block_bytes=largest * _FLOAT32,
        states_bytes=workload.streams * workload.tokens * hidden * _FLOAT32,
        statistics_bytes=_statistics_bytes(workload, widest),
        repair_bytes=_repair_bytes(workload, widest),
        piece_bytes=_piece_bytes(workload, widest),
        expected_s=_operations(workload, sum(blocks.values())) / _operations_per_s(),
    )


def _statistics_bytes(workload: Workload, widest: int) -> int:
    if not workload.products:
        return 0
    size = _FLOAT64 if widest <= WIDE else _FLOAT32
    temporary = widest * widest * _FLOAT32 if widest <= WIDE else 0
    return widest * (widest + workload.hidden) * size + temporary


def _repair_bytes(workload: Workload, widest: int) -> int:
    if not workload.products:
        return 0
    size = _FLOAT64 * (_SQUARES * widest * widest + _RECTANGLES * widest * workload.hidden)
    return size * 2 if workload.second_order else size


def _piece_bytes(workload: Workload, widest: int) -> int:
    if not workload.streams:
        return 0
    tokens = max(workload.window_tokens, piece_tokens(widest))
    return _LIVE_PRODUCTS * tokens * widest * _FLOAT32


def _operations(workload: Workload, block_elements: int) -> float:
    """Every stream's forward pass, and the pruned one's once more to observe; Gram and cross products; solving."""
    passes = 0 if not workload.streams else workload.streams + 1
    forward = 2.0 * workload.tokens * block_elements * passes
    return forward * (1 + workload.products)


def _operations_per_s() -> float:
    matrix = torch.rand(_PROBE_SIZE, _PROBE_SIZE)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * _PROBE_SIZE**3 / (time.perf_counter() - started)
