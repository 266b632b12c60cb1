"""Ridge repair: the surviving columns of a consumer are refitted so that they also say what the removed ones said.

With the surviving inputs X_K of the pruned stream, the wanted output Y (what leads the residual stream back to the
dense model's, see `streams`) and the sliced weights W_0, the new weights minimise

    ||Y - X_K W^T||^2 + lambda ||W - W_0||^2,   so   W = W_0 + (Y^T X_K - W_0 G)(G + lambda I)^-1,   G = X_K^T X_K.

This is the least-squares refit of MoDeGPT (arXiv 2408.09632) and of post-hoc compensation after any selector, with one
difference: the ridge pulls towards the sliced weights instead of towards zero, so that with little text the repair
fades into plain slicing instead of fitting noise. For the same reason lambda grows with the columns to fit per token of
text: lambda = (0.01 + 4 * columns / tokens) * mean diagonal of G. `benchmarks/compensation_*.md` has the measurements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.statistics import ConsumerStatistics

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
    weights. Raises CompressionError if the statistics are not finite or no damping makes the system solvable.
    """
    assert statistics.gram is not None and statistics.cross is not None
    kept = columns.to(statistics.gram.device)
    gram = statistics.gram.index_select(0, kept).index_select(1, kept)
    sliced = consumer.weight.detach().double()
    missing = statistics.cross.index_select(1, kept) - sliced @ gram
    if not bool(torch.isfinite(gram).all() and torch.isfinite(missing).all()):
        raise CompressionError("The calibration activations are not finite. Use an undamaged model or other text.")
    if not bool(gram.any()):
        return
    share = DAMPING + DAMPING_PER_COLUMN * len(kept) / statistics.tokens if damping is None else damping
    fitted = sliced + solve_ridge(gram, missing, share)
    consumer.weight = nn.Parameter(fitted.to(consumer.weight), requires_grad=False)


def solve_ridge(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """`cross (gram + damping * mean diagonal * I)^-1` in float64, [rows, columns].

    The damping grows tenfold until the Cholesky factor exists: a rank-deficient Gram matrix with rounding errors may
    be slightly indefinite. Raises CompressionError when it never does.
    """
    mean = float(gram.diagonal().mean())
    for attempt in range(_ATTEMPTS):
        ridge = max(damping, _FLOOR) * _ESCALATION**attempt * mean
        damped = gram.to(torch.float64, copy=True)
        damped.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            return torch.cholesky_solve(cross.double().T, factor).T
    raise CompressionError(
        "The repair's linear system cannot be solved. Use more calibration tokens or --no-compensate."
    )
