"""Taylor: to first order, removing a unit changes the language-model loss by the sum of weight times gradient.

All matrices coupled by the unit count: its rows in every producer (and in its bias) and its columns in the consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from artifacts.errors import CompressionError
from compressors.arch import UnitGroup
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence

Reduction = Literal["sum_of_abs", "abs_of_sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaylorConfig:
    """How a unit's elements become one number.

    "sum_of_abs" adds |weight * gradient| element by element. "abs_of_sum" lets the elements of one tensor cancel first,
    as they do when the unit's part of that tensor is scaled down as a whole, and adds what is left of each tensor.
    """

    reduction: Reduction = "sum_of_abs"


def saliences(group: UnitGroup, reduction: Reduction) -> Tensor:
    """[units] first-order estimates of the loss's change, float64, in nats if the gradients are of a loss in nats.

    Raises CompressionError where a gradient is missing or not finite.
    """
    total = _per_unit(_products(group.consumer.weight).T, group.count, reduction)
    for producer in group.producers:
        for tensor in (producer.linear.weight, producer.linear.bias):
            if tensor is not None:
                total = total + _per_unit(_products(tensor), group.count, reduction)
    return total


def _per_unit(products: Tensor, units: int, reduction: Reduction) -> Tensor:
    """[units] of products whose first dimension holds the units one after the other."""
    grouped = products.reshape(units, -1)
    return grouped.abs().sum(dim=1) if reduction == "sum_of_abs" else grouped.sum(dim=1).abs()


def _products(tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        raise CompressionError("Taylor scores need the loss's gradient of every coupled weight. Run a backward pass.")
    products = tensor.detach().double() * tensor.grad.double()
    if not bool(torch.isfinite(products).all()):
        raise CompressionError("A gradient of the loss is not finite. Use an undamaged model or other text.")
    return products


def rank(config: TaylorConfig, evidence: WidthEvidence) -> Ranking:
    return rank_by_score(saliences(evidence.group, config.reduction))


METHOD = Method(
    name="taylor",
    config=TaylorConfig(),
    units=("ffn", "kv"),
    needs="gradients",
    paper="Ma et al., LLM-Pruner (arXiv 2305.11627), first-order importance",
    rank_width=rank,
)
