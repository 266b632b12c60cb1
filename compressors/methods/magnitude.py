"""Magnitude: a unit matters as much as the norm of all weights coupled to it. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.arch import UnitGroup
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeConfig:
    """`order` of the norm: 1 sums absolute weights, 2 is Euclidean."""

    order: int = 2


def unit_magnitudes(group: UnitGroup, order: int) -> Tensor:
    """[units] norm over a unit's rows in every producer and its columns in the consumer; biases do not count."""
    total = group.per_unit(group.consumer.weight.abs().pow(order).sum(dim=0))
    for producer in group.producers:
        rows = producer.linear.weight.abs().pow(order).sum(dim=1)
        total = total + rows.view(group.count, producer.rows_per_unit).sum(dim=1)
    return total.pow(1 / order)


def rank(config: MagnitudeConfig, evidence: WidthEvidence) -> Ranking:
    return rank_by_score(unit_magnitudes(evidence.group, config.order))


METHOD = Method(
    name="magnitude",
    config=MagnitudeConfig(),
    units=("ffn", "kv"),
    needs="nothing",
    paper="Li et al., Pruning Filters for Efficient ConvNets (arXiv 1608.08710), over coupled matrices",
    rank_width=rank,
)
