"""Wanda-sp: a unit matters as much as its consumer weights, each weighted by how large its input really is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.arch import UnitGroup
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class WandaSpConfig:
    """No knobs."""


def unit_scores(group: UnitGroup, input_norms: Tensor) -> Tensor:
    """[units] sum over a unit's consumer columns c of sum_j |W_jc| * ||X_c||_2, X over the calibration tokens."""
    return group.per_unit(group.consumer.weight.abs().sum(dim=0) * input_norms)


def rank(config: WandaSpConfig, evidence: WidthEvidence) -> Ranking:
    return rank_by_score(unit_scores(evidence.group, evidence.required_statistics.input_norms))


METHOD = Method(
    name="wanda_sp",
    config=WandaSpConfig(),
    units=("ffn", "kv"),
    needs="energy",
    paper="Sun et al., Wanda (arXiv 2306.11695), in the structured form of An et al., FLAP (arXiv 2312.11983)",
    rank_width=rank,
)
