"""MoDeGPT's first module type: the FFN channels with the lowest ridge leverage go, all at once.

The leverage of a channel says how badly the other channels can stand in for its input; it does not ask what the
consumer makes of that input. The paper's closed-form down projection after the choice is the "ridge" repair here, with
one difference that `compensation` explains: its ridge pulls towards the sliced weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.compensation import damping_share, factorise
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence
from compressors.statistics import require_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class ModegptMlpConfig:
    """`damping` is the ridge as a share of the Gram matrix's mean diagonal; None is the repair's rule."""

    damping: float | None = None


def leverages(gram: Tensor, damping: float) -> Tensor:
    """[columns] diagonal of G (G + lambda I)^-1, between 0 and 1. Raises CompressionError as `factorise` does."""
    require_finite(gram)
    if not bool(gram.any()):
        return torch.zeros_like(gram.diagonal())
    factor, ridge = factorise(gram, damping)
    return 1 - ridge * torch.cholesky_inverse(factor, out=factor).diagonal()


def rank(config: ModegptMlpConfig, evidence: WidthEvidence) -> Ranking:
    """A cost is a leverage: a pure number, whatever the layer's scale."""
    statistics = evidence.required_statistics
    assert statistics.gram is not None
    damping = damping_share(len(statistics.gram), statistics.tokens) if config.damping is None else config.damping
    return rank_by_score(leverages(statistics.gram, damping))


METHOD = Method(
    name="modegpt_mlp",
    config=ModegptMlpConfig(),
    units=("ffn",),
    needs="gram",
    paper="Lin et al., MoDeGPT (arXiv 2408.09632), its type I module",
    rank_width=rank,
)
