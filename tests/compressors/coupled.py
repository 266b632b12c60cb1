"""Small coupled matrices and evidence about them, for tests of width methods."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn

from compressors.arch import Producer, UnitGroup
from compressors.registry import WidthEvidence
from compressors.statistics import ConsumerStatistics


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


def ffn_group(consumer: Tensor, hidden: int = 8) -> UnitGroup:
    """Random gate and up matrices in front of a consumer [rows, channels]."""
    channels = consumer.shape[1]
    producers = tuple(Producer(linear(gaussian(channels, hidden, seed=seed)), 1) for seed in (11, 12))
    return UnitGroup(producers, linear(consumer), 1)


def kv_group(consumer: Tensor, columns_per_unit: int) -> UnitGroup:
    """One producer row per consumer column in front of a consumer [rows, columns]."""
    producer = Producer(linear(gaussian(consumer.shape[1], 8, seed=11)), columns_per_unit)
    return UnitGroup((producer,), linear(consumer), columns_per_unit)


def statistics_of(inputs: Tensor, wanted: Tensor) -> ConsumerStatistics:
    """Of consumer inputs [tokens, columns] and wanted outputs [tokens, rows], fed in pieces."""
    sums = ConsumerStatistics(inputs.shape[1], wanted.shape[1], full=True, device=inputs.device)
    for x, y in zip(inputs.split(64), wanted.split(64), strict=True):
        sums.add(x, y)
    return sums


def evidence_of(
    group: UnitGroup, inputs: Tensor, wanted: Tensor | None = None, *, most_removed: int | None = None
) -> WidthEvidence:
    """Without `wanted`, the consumer's own output is what is wanted."""
    own = inputs @ group.consumer.weight.detach().to(inputs).T
    return WidthEvidence(
        group=group,
        statistics=statistics_of(inputs, own if wanted is None else wanted),
        most_removed=group.count if most_removed is None else most_removed,
        random=Random(0),
    )
