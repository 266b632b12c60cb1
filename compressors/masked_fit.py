"""Zeros in a matrix whose other weights make good for them: one sweep over its columns, left to right (SparseGPT).

A matrix W [rows, columns] that reads X stands at the optimum of ||X W^T - T||^2 + lambda ||W||^2, whose Hessian is
H = X^T X + lambda I. Setting w_j of a row to zero costs w_j^2 / [H^-1]_jj, and the later weights of the row make good
best for it by the step -(w_j / [H^-1]_jj) [H^-1]_j,j:, with the inverse of H over the columns that are still free.
Those inverses are, for all rows alike, in the rows of the upper Cholesky factor U of H^-1: cost w_j^2 / U_jj^2, step
-(w_j / U_jj) U_j,j: (Frantar and Alistarh, arXiv 2301.00774, section 3.3).

Zeros are chosen for `BLOCK_COLUMNS` columns at once by the weights as they are then, or for an n:m group when its first
column is reached. Weights are held transposed, because a step is made for all rows of a column.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from compressors.compensation import factorise
from compressors.masks import Pattern, group_mask, lowest
from compressors.second_order import Quadratic
from compressors.statistics import require_finite

BLOCK_COLUMNS = 128


class Hessian:
    """H of all matrices with the same input: `solve` for optima, `sweep` for zeros."""

    def __init__(self, gram: Tensor, damping: float) -> None:
        """`damping` is lambda as a share of the mean diagonal of `gram`; without any signal H is the unit matrix.

        Raises CompressionError if `gram` is not finite or no damping makes it positive definite.
        """
        require_finite(gram)
        if not bool(gram.diagonal().any()):
            gram = torch.eye(len(gram)).to(gram)
        self._factor, self.ridge = factorise(gram, damping)
        self._dead = gram.diagonal() <= 0

    def quadratic(self, optimum: Tensor) -> Quadratic:
        """The fit around its optimum [rows, columns], for whole units to be eliminated. Both tensors are new.

        A column without signal can be had for nothing: its optimum is set to zero.
        """
        weights = optimum.to(self._factor).T.clone(memory_format=torch.contiguous_format)
        weights[self._dead] = 0
        return Quadratic(weights, torch.cholesky_inverse(self._factor))

    @cached_property
    def _upper(self) -> Tensor:
        return torch.linalg.cholesky(torch.cholesky_inverse(self._factor), upper=True)

    def solve(self, cross: Tensor, base: Tensor) -> Tensor:
        """[rows, columns] optimum of the fit to `cross` = T^T X with a pull of lambda towards `base`."""
        right = cross + self.ridge * base
        return torch.cholesky_solve(right.T, self._factor).T

    def sweep(self, weights: Tensor, pattern: Pattern) -> Tensor:
        """[rows, columns] with the pattern's zeros, from optimal weights. Columns without signal go first."""
        rows, columns = weights.shape
        swept = weights.to(self._upper).T.contiguous()
        width = BLOCK_COLUMNS if pattern.group is None else max(1, BLOCK_COLUMNS // pattern.group) * pattern.group
        for first in range(0, columns, width):
            last = min(first + width, columns)
            quota = pattern.quota(first * rows, last * rows)
            moved = self._sweep_block(swept[first:last], first, pattern, quota)
            swept[last:].addmm_(self._upper[first:last, last:].T, moved, alpha=-1)
        return swept.T

    def _sweep_block(self, weights: Tensor, first: int, pattern: Pattern, quota: int) -> Tensor:
        """Sweeps [columns, rows] from column `first` on in place; returns w_j / U_jj of what went, zero elsewhere."""
        columns = slice(first, first + len(weights))
        upper, signal = self._upper[columns, columns], ~self._dead[columns]
        diagonal = upper.diagonal()
        scale = torch.where(signal, diagonal.reciprocal(), 0.0)[:, None]
        if pattern.group is None:
            mask = lowest((weights * scale).square_(), quota)
        else:
            mask = torch.empty_like(weights, dtype=torch.bool)
        moved = torch.zeros_like(weights)
        for column in range(len(weights)):
            if pattern.group is not None and column % pattern.group == 0:
                group = slice(column, column + pattern.group)
                mask[group] = group_mask((weights[group] * scale[group]).square().T, pattern).T
            moved[column] = weights[column] / diagonal[column] * mask[column]
            weights[column:].addr_(upper[column, column:], moved[column], alpha=-1)
            weights[column].masked_fill_(mask[column], 0.0)
        return moved
