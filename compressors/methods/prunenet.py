"""PruneNet without its policy network: the FFN rows go whose removal moves the spectrum of the gate matrix least.

The paper trains a policy so that the singular values of the cut matrix are distributed like those of the whole one,
in Kolmogorov-Smirnov distance. For a single row that distance cannot rank: removing one row of a matrix with D columns
moves every singular value down, but never past the next one (interlacing), so the distance is 0 or 1/D. What tells
rows apart is *how far* towards its neighbour each value moves. The score is the mean of these shares over the values:
the change of the distribution averaged over its quantiles instead of maximised.

One singular value decomposition M = U S V^T serves all rows: to first order in u^2, removing row i turns s_k^2 into
s_k^2 (1 - u_ik^2). Approximated are thus the turning of the singular vectors by the removal, and, when many rows go,
that their scores add. No data is read.

Only the gate's spectrum counts, because the gate decides when a channel speaks at all. On stories that no table uses,
the sum with the other producer's score was worse at three of four widths of stories260K (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence

_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneNetConfig:
    """No knobs."""


def spectral_shifts(matrix: Tensor) -> Tensor:
    """[rows] how many places each singular value falls when a row goes, as a mean over the values; float64.

    `matrix` [rows, columns]. A value between its old place and the next lower one has fallen by a share of a place;
    below the smallest value comes zero.
    """
    left, values, _ = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    values = torch.cat((values.flip(0).new_zeros(1), values.flip(0)))
    return torch.cat([_places_lost(chunk.flip(1), values) for chunk in left.split(_CHUNK_ROWS)])


def _places_lost(left: Tensor, values: Tensor) -> Tensor:
    """[rows] for left singular vectors [rows, values - 1]; `values` ascend from zero."""
    after = (values[1:] * (1 - left.square()).clamp_min(0).sqrt()).contiguous()
    above = torch.searchsorted(values, after).clamp_min(1)
    lower, upper = values[above - 1], values[above]
    share = (after - lower) / (upper - lower).clamp_min(torch.finfo(values.dtype).tiny)
    places = torch.arange(1, len(values), device=values.device)
    return (places - (above - 1 + share)).mean(dim=1)


def rank(config: PruneNetConfig, evidence: WidthEvidence) -> Ranking:
    """A cost is a mean number of places: a pure number, whatever the layer's scale."""
    return rank_by_score(spectral_shifts(evidence.group.producers[0].linear.weight))


METHOD = Method(
    name="prunenet",
    config=PruneNetConfig(),
    units=("ffn",),
    needs="nothing",
    paper="Sengupta et al., PruneNet (arXiv 2501.15296), with a deterministic score in place of its policy",
    rank_width=rank,
)
