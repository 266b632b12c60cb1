"""Ridge repair: the surviving columns of a consumer are refitted so that they also say what the removed ones said.

With the surviving inputs X_K of the pruned stream, the wanted output Y (what leads the residual stream back to the
dense model's, see `streams`) and the sliced weights W_0, the new weights minimise

    ||Y - X_K W^T||^2 + lambda ||W - W_0||^2,   so   W = (Y^T X_K + lambda W_0)(G + lambda I)^-1,   G = X_K^T X_K.

This is the least-squares refit of MoDeGPT (arXiv 2408.09632) and of post-hoc compensation after any selector, with one
difference: the ridge pulls towards the sliced weights instead of towards zero, so that with little text the repair
fades into plain slicing instead of fitting noise. For the same reason lambda grows with the columns to fit per token of
text: lambda = (0.01 + 4 * columns / tokens) * mean diagonal of G. `benchmarks/compensation_*.md` has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.statistics import ConsumerStatistics, require_finite

DAMPING = 0.01
DAMPING_PER_COLUMN = 4.0
_FLOOR = 1e-12
_ESCALATION = 10.0
_ATTEMPTS = 6


def refit_consumer(
    consumer: nn.Linear, statistics: ConsumerStatistics, columns: Tensor, *, damping: float | None = None
) -> None:
    """Replaces the weights of `consumer`, already cut down to `columns` of the base matrix.

    `damping` is lambda as a share of the mean diagonal; None is the rule above. A column without signal keeps its
    weights. Works in the type of the statistics. Raises CompressionError if they are not finite or no damping makes
    the system solvable.
    """
    gram, cross = kept_products(statistics, columns)
    if not bool(gram.diagonal().any()):
        return
    signal = gram.diagonal() > 0
    share = damping_share(len(columns), statistics.tokens) if damping is None else damping
    factor, ridge = factorise(gram, share)
    del gram  # the solver takes a copy of the factor
    sliced = consumer.weight.detach().to(factor)
    fitted = torch.where(signal, _solve(factor, ridge, cross, sliced), sliced)
    consumer.weight = nn.Parameter(fitted.to(consumer.weight), requires_grad=False)


def kept_products(statistics: ConsumerStatistics, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The Gram matrix [kept, kept] and the cross products [rows, kept] of some columns.

    Raises CompressionError if they are not finite.
    """
    assert statistics.gram is not None and statistics.cross is not None
    kept = columns.to(statistics.gram.device)
    gram = statistics.gram[kept[:, None], kept]
    cross = statistics.cross.index_select(1, kept)
    require_finite(gram, cross)
    return gram, cross


def damping_share(columns: int, tokens: int) -> float:
    """Lambda as a share of the Gram matrix's mean diagonal, when `columns` are fitted on `tokens` tokens."""
    return DAMPING + DAMPING_PER_COLUMN * columns / tokens


def solve_ridge(gram: Tensor, cross: Tensor, base: Tensor, damping: float) -> Tensor:
    """`(cross + lambda base)(gram + lambda I)^-1` [rows, columns] in the type of `gram`, lambda as in `factorise`."""
    return _solve(*factorise(gram, damping), cross, base)


def _solve(factor: Tensor, ridge: float, cross: Tensor, base: Tensor) -> Tensor:
    return torch.cholesky_solve((cross + ridge * base).T, factor).T


def factorise(gram: Tensor, damping: float) -> tuple[Tensor, float]:
    """The lower Cholesky factor of `gram + lambda I`, and lambda: `damping` times the mean diagonal.

    The damping grows tenfold until the factor exists: a rank-deficient Gram matrix with rounding errors may be slightly
    indefinite. Raises CompressionError when it never does.
    """
    mean = float(gram.diagonal().mean())
    for attempt in range(_ATTEMPTS):
        ridge = max(damping, _FLOOR) * _ESCALATION**attempt * mean
        with _damped(gram, ridge):
            factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed) == 0:
            return factor, ridge
        del factor
    raise CompressionError(
        "The calibration's Gram matrix cannot be factorised. Use more calibration tokens or a method and repair "
        "without second-order statistics."
    )


@contextmanager
def _damped(gram: Tensor, ridge: float) -> Iterator[None]:
    """Adds to the diagonal for a while: a damped copy would be one more of the largest things in memory."""
    diagonal = gram.diagonal().clone()
    gram.diagonal().add_(ridge)
    try:
        yield
    finally:
        gram.diagonal().copy_(diagonal)
