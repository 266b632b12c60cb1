"""Weight magnitude: of every matrix the weights nearest to zero become zero. Needs no data.

The control of every method that masks single weights, as in Han et al.; no retraining follows. Zeros are chosen over a
whole matrix, with n:m in every group.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.mask_evidence import MatrixEvidence
from compressors.masks import matrix_mask
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMagnitudeConfig:
    """No knobs."""


def mask(config: WeightMagnitudeConfig, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    return tuple(weight.masked_fill(matrix_mask(weight.abs(), evidence.pattern), 0.0) for weight in evidence.weights)


METHOD = Method(
    name="weight_magnitude",
    config=WeightMagnitudeConfig(),
    units=("weights",),
    needs="nothing",
    paper="Han et al., Learning both Weights and Connections (arXiv 1506.02626), without the retraining",
    mask_matrices=mask,
)
