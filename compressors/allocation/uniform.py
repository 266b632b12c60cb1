"""Uniform: the same widths in every layer, which stock checkpoints can express."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Target
from compressors.plan import Allocation, LayerBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformConfig:
    """No knobs."""


def allocate(config: UniformConfig, problem: Problem) -> Allocation:
    return uniform_within(problem.target)


def uniform_within(target: Target) -> Allocation:
    """For every number of KV groups the widest FFN that fits; of those the pair whose removed shares differ least."""
    space = target.space
    fitting = [widest for groups in space.widths["kv"] if (widest := _widest_ffn(target, groups)) is not None]

    def imbalance(width: LayerBudget) -> tuple[float, int]:
        kept = [width.count(unit) / space.dense.count(unit) for unit in space.units]
        return max(kept) - min(kept), -width.kv_groups

    return (min(fitting, key=imbalance),) * space.layers


def _widest_ffn(target: Target, groups: int) -> LayerBudget | None:
    for channels in reversed(target.space.widths["ffn"]):
        width = LayerBudget(kv_groups=groups, ffn_channels=channels)
        if target.holds((width,) * target.space.layers):
            return width
    return None


ALLOCATOR = Allocator(name="uniform", config=UniformConfig(), needs_text=False, paper="the control", allocate=allocate)
