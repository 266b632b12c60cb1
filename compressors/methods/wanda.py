"""Wanda: a single weight matters as much as its magnitude times the norm of its input over the text.

The score is S_ij = |W_ij| ||X_j|| (equation 1), compared within a row, because a row is one output; with n:m within
each group. Nothing is refitted.

Deviation: the authors' code makes `int(columns * share)` weights of each row zero, which on narrow matrices is fewer
than asked (44 of 64 at 70 %). Here rows differ by one, so that the matrix has exactly its share; `rows` has theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compressors.mask_evidence import MatrixEvidence
from compressors.masks import Pattern, row_mask
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class WandaConfig:
    """`rows` "exact" gives the matrix its share, "floor" each row as many zeros as are surely not too many."""

    rows: Literal["exact", "floor"] = "exact"


def mask(config: WandaConfig, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    norms = evidence.required_statistics.input_norms
    masks = (row_mask(weight.abs() * norms, _fitting(config, evidence, weight)) for weight in evidence.weights)
    return tuple(weight.masked_fill(mask, 0.0) for weight, mask in zip(evidence.weights, masks, strict=True))


def _fitting(config: WandaConfig, evidence: MatrixEvidence, weight: Tensor) -> Pattern:
    """The pattern, or the highest share below its own that every row can have."""
    pattern, columns = evidence.pattern, weight.shape[1]
    if config.rows == "exact" or pattern.group is not None:
        return pattern
    return Pattern(int(columns * pattern.share) / columns)


METHOD = Method(
    name="wanda",
    config=WandaConfig(),
    units=("weights",),
    needs="energy",
    paper="Sun et al., Wanda (arXiv 2306.11695)",
    mask_matrices=mask,
)
