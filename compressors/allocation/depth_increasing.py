"""Depth-increasing: the further back a layer, the more it loses, along a logarithm.

Errors made early pass through everything behind them, so early layers are spared (SlimGPT, arXiv 2412.18110).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Shares
from compressors.plan import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthIncreasingConfig:
    """`first_to_last` is what the first layer loses, as a share of what the last one loses."""

    first_to_last: float = 0.5


def allocate(config: DepthIncreasingConfig, problem: Problem) -> Allocation:
    space = problem.target.space
    weights = layer_weights(space.layers, config.first_to_last)

    def shares_at(strength: float) -> Shares:
        return {(index, unit): min(1.0, strength * weights[index]) for index, unit in space.halves}

    return problem.target.fit(shares_at)


def layer_weights(layers: int, first_to_last: float) -> list[float]:
    """first_to_last, ... 1 by layer: linear in log(1 + index)."""
    if layers == 1:
        return [1.0]
    rise = (1 - first_to_last) / math.log(layers)
    return [first_to_last + rise * math.log(1 + index) for index in range(layers)]


ALLOCATOR = Allocator(
    name="depth_increasing",
    config=DepthIncreasingConfig(),
    needs_text=False,
    paper="SlimGPT (arXiv 2412.18110)",
    allocate=allocate,
)
