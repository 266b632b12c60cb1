"""What the calibration set says about one consumer matrix: how large its inputs are, how they move together, and what
its output should have been."""

from __future__ import annotations

import torch
from torch import Tensor

from artifacts.errors import CompressionError

WIDE = 4096


class ConsumerStatistics:
    """Sums over calibration tokens, for consumer inputs X [tokens, columns] and wanted outputs Y [tokens, rows].

    `total` [columns] is the sum of X, `energy` [columns] of its squares. `gram` [columns, columns] is X^T X and `cross`
    [rows, columns] is Y^T X; both exist only where a selection or a repair will need them. Y never contains the
    consumer's bias. Products are taken in the type of X and summed in float64 up to WIDE columns. Beyond that the sums
    are float32: with ten thousand columns and more the matrix is the largest thing in memory, and thousands of tokens
    in one product round no worse than their float32 inputs.
    """

    def __init__(self, columns: int, rows: int, *, full: bool, device: torch.device) -> None:
        self.tokens = 0
        self.total = torch.zeros(columns, dtype=torch.float64, device=device)
        self.energy = torch.zeros(columns, dtype=torch.float64, device=device)
        kind = torch.float64 if columns <= WIDE else torch.float32
        self.gram = torch.zeros(columns, columns, dtype=kind, device=device) if full else None
        self.cross = torch.zeros(rows, columns, dtype=kind, device=device) if full else None

    def add(self, inputs: Tensor, wanted: Tensor | None = None) -> None:
        """`inputs` [..., columns]; `wanted` [..., rows] is required where the repair's sums are kept."""
        x = inputs.reshape(-1, inputs.shape[-1])
        self.tokens += len(x)
        exact = x.to(torch.float64, copy=True)
        self.total += exact.sum(dim=0)
        self.energy += exact.square_().sum(dim=0)
        del exact
        if self.gram is not None:
            _add_product(self.gram, x, x)
        if self.cross is not None and wanted is not None:
            _add_product(self.cross, wanted.reshape(-1, wanted.shape[-1]), x)

    @property
    def input_norms(self) -> Tensor:
        """[columns] Euclidean norm of each input over all tokens, float32. Raises CompressionError unless finite."""
        require_finite(self.energy)
        return self.energy.sqrt().float()

    @property
    def means(self) -> Tensor:
        """[columns] mean of each input over all tokens, float64."""
        return self.total / self.tokens

    @property
    def variances(self) -> Tensor:
        """[columns] variance of each input about its own mean, float64; never negative.

        Raises CompressionError unless finite.
        """
        require_finite(self.energy)
        return (self.energy / self.tokens - self.means.square()).clamp_min(0)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left^T right`, without a temporary matrix where the types agree."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def require_finite(*products: Tensor) -> None:
    """Raises CompressionError if calibration made anything infinite or not a number."""
    if not all(bool(torch.isfinite(product.sum())) for product in products):  # one pass, nothing allocated
        raise CompressionError("The calibration activations are not finite. Use an undamaged model or other text.")
