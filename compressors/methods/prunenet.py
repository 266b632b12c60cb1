"""PruneNet without its policy network: the FFN rows go whose removal moves the spectrum of the producers least.

The paper trains a policy so that the singular values of the cut matrix are distributed like those of the whole one,
in Kolmogorov-Smirnov distance. For a single row that distance cannot rank: removing one row of a matrix with D columns
moves every singular value down, but never past the next one (interlacing), so the distance is 0 or 1/D. What tells
rows apart is *how far* towards its neighbour each value moves; the score is the mean of these shares over the values,
which is the change of the distribution averaged over its quantiles instead of maximised.

One singular value decomposition M = U S V^T serves all rows: to first order in u^2, removing row i turns s_k^2 into
s_k^2 (1 - u_ik^2). Approximated are thus the turning of the singular vectors by the removal, and, when many rows go,
that their scores add. No data is read.
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
    """[rows] mean share, between 0 and 1, of the way to the next lower singular value that removing a row causes.

    `matrix` [rows, columns]. The smallest value's way ends at zero. float64.
    """
    left, values, _ = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    lower = torch.cat((values[1:], values.new_zeros(1)))
    gaps = (values - lower).clamp_min(torch.finfo(torch.float64).tiny)
    shifts = [_shares(chunk, values, gaps) for chunk in left.split(_CHUNK_ROWS)]
    return torch.cat(shifts)


def _shares(left: Tensor, values: Tensor, gaps: Tensor) -> Tensor:
    moved = values * (1 - (1 - left.square()).clamp_min(0).sqrt())
    return (moved / gaps).clamp_max(1).mean(dim=1)


def rank(config: PruneNetConfig, evidence: WidthEvidence) -> Ranking:
    """A cost is the sum of the shifts over the producers: a pure number, whatever the layer's scale."""
    shifts = [spectral_shifts(producer.linear.weight) for producer in evidence.group.producers]
    return rank_by_score(torch.stack(shifts).sum(dim=0))


METHOD = Method(
    name="prunenet",
    config=PruneNetConfig(),
    units=("ffn",),
    needs="nothing",
    paper="Sengupta et al., PruneNet (arXiv 2501.15296), with a deterministic score in place of its policy",
    rank_width=rank,
)
