"""Wanda: a single weight matters as much as its magnitude times the norm of its input over the text.

The score is S_ij = |W_ij| ||X_j|| (equation 1), compared within a row, because a row is one output; with n:m within each
group. Nothing is refitted.

Deviation: the authors' code makes `int(columns * share)` weights of each row zero, which on narrow matrices is fewer than
asked (44 of 64 at 70 %). Here rows get one more or one less, so that the matrix has exactly its share.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.mask_evidence import MatrixEvidence
from compressors.masks import row_mask
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class WandaConfig:
    """No knobs."""


def mask(config: WandaConfig, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    norms = evidence.required_statistics.input_norms
    return tuple(
        weight.masked_fill(row_mask(weight.abs() * norms, evidence.pattern), 0.0) for weight in evidence.weights
    )


METHOD = Method(
    name="wanda",
    config=WandaConfig(),
    units=("weights",),
    needs="energy",
    paper="Sun et al., Wanda (arXiv 2306.11695)",
    mask_matrices=mask,
)
