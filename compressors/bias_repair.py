"""Bias repair: a constant stands in for what the removed columns S of a consumer wrote on average, b = W_:S E[X_S].

This is FLAP's repair (arXiv 2312.11983), on the pruned stream. The constant that leads back to the dense residual
stream on average, E[Y] - W_K E[X_K], was measured too and is worse on held-out text: the average cannot tell what
earlier layers lost from what this one lost. A bias fitted together with the ridge did not pay either.
"""

from __future__ import annotations

from torch import Tensor, nn

from compressors.statistics import ConsumerStatistics, require_finite


def refit_bias(consumer: nn.Linear, base: Tensor, statistics: ConsumerStatistics, columns: Tensor) -> None:
    """Adds b to the bias of `consumer`, already cut down to `columns` of its weights `base` [rows, base columns].

    A missing bias is created. Needs sums of inputs only. Raises CompressionError if they are not finite.
    """
    bias = removed_mean(base, statistics, columns).to(consumer.weight)
    if consumer.bias is not None:
        bias = consumer.bias.detach() + bias
    consumer.bias = nn.Parameter(bias, requires_grad=False)


def removed_mean(base: Tensor, statistics: ConsumerStatistics, columns: Tensor) -> Tensor:
    """[rows] mean output of all columns of `base` that are not in `columns`, float64."""
    means = statistics.means.clone()
    require_finite(means)
    means[columns.to(means.device)] = 0
    return base.detach().to(means) @ means
