"""Magnitude: a unit matters as much as the norm of all weights coupled to it. Needs no data.

The columns of the consumer alone are `wanda_sp` without activations and what regression pruners compare themselves with
(OSSCAR, arXiv 2403.12983). For FFN channels both are about as good; for KV groups all coupled matrices are better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compressors.arch import UnitGroup
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence

Matrices = Literal["consumer", "coupled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeConfig:
    """`order` of the norm: 1 sums absolute weights, 2 is Euclidean. "consumer" leaves the producers' rows out."""

    order: int = 2
    matrices: Matrices = "coupled"


def unit_magnitudes(group: UnitGroup, order: int, matrices: Matrices) -> Tensor:
    """[units] norm over a unit's columns in the consumer and, if coupled, its rows in every producer; no biases."""
    total = group.per_unit(group.consumer.weight.abs().pow(order).sum(dim=0))
    for producer in group.producers if matrices == "coupled" else ():
        rows = producer.linear.weight.abs().pow(order).sum(dim=1)
        total = total + rows.view(group.count, producer.rows_per_unit).sum(dim=1)
    return total.pow(1 / order)


def rank(config: MagnitudeConfig, evidence: WidthEvidence) -> Ranking:
    return rank_by_score(unit_magnitudes(evidence.group, config.order, config.matrices))


METHOD = Method(
    name="magnitude",
    config=MagnitudeConfig(),
    units=("ffn", "kv"),
    needs="nothing",
    paper="Li et al., Pruning Filters for Efficient ConvNets (arXiv 1608.08710), over coupled matrices",
    rank_width=rank,
)
