"""Ridge repair: the surviving columns of a consumer are refitted so that they also say what the removed ones said.

With the surviving inputs X_K of the pruned stream and the wanted output Y (what keeps the residual stream on the dense
model's course), W_K minimises ||Y - X_K W_K^T||^2 + lambda ||W_K||^2 with lambda = damping * mean diagonal, so
W_K = (Y^T X_K)(X_K^T X_K + lambda I)^-1. With Y = X W^T this is the refit of MoDeGPT (arXiv 2408.09632, its type I)
and GRAIL. Independent of how the survivors were chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.statistics import ConsumerStatistics

DAMPING = 0.01
_ESCALATION = 10.0
_ATTEMPTS = 6
_DEAD = 1e-12  # share of the mean input energy below which a column carries no signal


def refit_consumer(
    consumer: nn.Linear, statistics: ConsumerStatistics, columns: Tensor, *, damping: float = DAMPING
) -> None:
    """Replaces the weights of `consumer`, already cut down to `columns` of the base matrix.

    Columns without signal keep their weights: nothing is known about them. Raises CompressionError if the statistics
    are not finite or if no damping makes the system solvable.
    """
    assert statistics.gram is not None and statistics.cross is not None
    kept = columns.to(statistics.gram.device)
    gram = statistics.gram.index_select(0, kept).index_select(1, kept)
    cross = statistics.cross.index_select(1, kept)
    if not bool(torch.isfinite(gram).all() and torch.isfinite(cross).all()):
        raise CompressionError("The calibration activations are not finite. Use a model in an undamaged state.")
    alive = gram.diagonal() > _DEAD * gram.diagonal().mean()
    if not bool(alive.any()):
        return
    fitted = solve_ridge(gram[alive][:, alive], cross[:, alive], damping)
    weight = consumer.weight.detach().clone()
    weight[:, alive.to(weight.device)] = fitted.to(weight)
    consumer.weight = nn.Parameter(weight, requires_grad=False)


def solve_ridge(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """`cross (gram + damping * mean diagonal * I)^-1` in float64, [rows, columns].

    The damping grows tenfold until the Cholesky factor exists: a rank-deficient Gram matrix with rounding errors may
    be slightly indefinite. Raises CompressionError when it never does.
    """
    mean = float(gram.diagonal().mean())
    for attempt in range(_ATTEMPTS):
        ridge = max(damping, 1e-12) * _ESCALATION**attempt * mean
        damped = gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            return torch.cholesky_solve(cross.double().T, factor).T
    raise CompressionError(
        "The repair's linear system cannot be solved. Use more calibration tokens or --no-compensate."
    )
