"""Softmax of block influence: what hardly turns the residual stream loses more.

With the influence s_i = 1 - cos(stream before, stream after) of n parts, part i loses the share
n * mean share * softmax(-s / temperature)_i: the entropy-regularised optimum of MoDeGPT (arXiv 2408.09632). Here the
parts are half layers, so attention and FFN of a layer are told apart, and the mean is what meets the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Shares
from compressors.arch import WIDTH_UNITS, Half
from compressors.blocks import BlockModel
from compressors.methods.block_influence import block_influence
from compressors.plan import Allocation
from compressors.streams import first_states

# So that a part with hardly any weight still shrinks once nothing else can.
_LEAST_WEIGHT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceSoftmaxConfig:
    """High temperatures approach the uniform allocation."""

    temperature: float = 0.1


def allocate(config: InfluenceSoftmaxConfig, problem: Problem) -> Allocation:
    influences = half_influences(problem.model, problem.required_windows)
    halves = problem.target.space.halves
    weights = softmax_weights([influences[half] for half in halves], config.temperature)

    def shares_at(strength: float) -> Shares:
        return {half: min(1.0, strength * weight) for half, weight in zip(halves, weights, strict=True)}

    return problem.target.fit(shares_at)


def softmax_weights(influences: list[float], temperature: float) -> list[float]:
    """n * softmax(-influence / temperature), whose mean is 1."""
    scaled = torch.tensor(influences, dtype=torch.float64) / -temperature
    return (len(influences) * scaled.softmax(dim=0)).clamp_min(_LEAST_WEIGHT).tolist()


@torch.inference_mode()
def half_influences(model: BlockModel, windows: Tensor) -> dict[Half, float]:
    """Block influence of every half layer of the dense model on windows [N, T]."""
    course = first_states(model, windows)
    influences: dict[Half, float] = {}
    for index in range(len(model)):
        layer = model.load(index)
        for unit in WIDTH_UNITS:
            before = course.states.clone()
            course.move(index, layer, unit)
            influences[index, unit] = block_influence(before, course.states)
        del layer
    return influences


ALLOCATOR = Allocator(
    name="influence_softmax",
    config=InfluenceSoftmaxConfig(),
    needs_text=True,
    paper="MoDeGPT (arXiv 2408.09632)",
    allocate=allocate,
    survey="influence",
)
