"""Random units: the calibration-free arm that every informed choice must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressors.plan import Ranking
from compressors.registry import Method, WidthEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomConfig:
    """No knobs: the run's seed decides."""


def rank(config: RandomConfig, evidence: WidthEvidence) -> Ranking:
    units = evidence.group.count
    return Ranking(order=tuple(evidence.random.sample(range(units), units)), costs=torch.zeros(units).double())


METHOD = Method(
    name="random",
    config=RandomConfig(),
    units=("ffn", "kv"),
    needs="nothing",
    paper="the random-rows control of PruneNet (arXiv 2501.15296)",
    rank_width=rank,
)
