"""SparseGPT: weights become zero where the rest of their row can best make good for it, column after column.

Every matrix is refitted by itself to what it computed before, on the inputs that masked layers before it give (see
`masked_fit` for the sweep). Deviations from the authors' code: quotas are exact instead of a threshold that ties may
pass; a column without signal gives its zeros first and keeps its other weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressors.mask_evidence import MatrixEvidence
from compressors.masked_fit import Hessian
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGptConfig:
    """`damping` is added to the Hessian's diagonal, as a share of its mean."""

    damping: float = 0.01


def mask(config: SparseGptConfig, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    return sweep_all(config.damping, evidence)


def sweep_all(damping: float, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    """Matrices with a common input share one factorisation."""
    gram = evidence.required_statistics.gram
    assert gram is not None
    hessian = Hessian(gram, damping)
    return tuple(hessian.sweep(weight, evidence.pattern).to(weight) for weight in evidence.weights)


METHOD = Method(
    name="sparsegpt",
    config=SparseGptConfig(),
    units=("weights",),
    needs="gram",
    paper="Frantar and Alistarh, SparseGPT (arXiv 2301.00774)",
    mask_matrices=mask,
)
