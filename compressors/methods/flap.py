"""FLAP: a unit whose input hardly moves can go, because a constant can stand in for it.

The score is what is left of the consumer's output when the removed inputs are replaced by their means, which is what
the "bias" repair does. It is raw here, in squared residual-stream units per token; pooling over layers wants it
`standardised`, as the paper does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.arch import UnitGroup
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class FlapConfig:
    """No knobs."""


def fluctuation(group: UnitGroup, variances: Tensor) -> Tensor:
    """[units] sum over a unit's consumer columns c of Var(X_c) * ||W_:c||^2, variance about the mean over tokens."""
    energy = group.consumer.weight.detach().double().square().sum(dim=0)
    return group.per_unit(energy * variances.to(energy.device))


def rank(config: FlapConfig, evidence: WidthEvidence) -> Ranking:
    return rank_by_score(fluctuation(evidence.group, evidence.required_statistics.variances))


METHOD = Method(
    name="flap",
    config=FlapConfig(),
    units=("ffn", "kv"),
    needs="energy",
    paper="An et al., FLAP (arXiv 2312.11983)",
    rank_width=rank,
)
