"""In which order units would go, and which of them survive in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.arch import WidthUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBudget:
    """How many units a layer keeps. 0 of a kind removes that half of the layer, 0 of both the layer."""

    kv_groups: int
    ffn_channels: int

    @property
    def present(self) -> bool:
        return self.kv_groups > 0 or self.ffn_channels > 0

    def count(self, unit: WidthUnit) -> int:
        return self.kv_groups if unit == "kv" else self.ffn_channels


# One entry per layer of the base model.
Allocation = tuple[LayerBudget, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """Ascending indices of what survives, counted in the base model's units; an empty half is removed."""

    kv_groups: tuple[int, ...]
    ffn_channels: tuple[int, ...]

    @property
    def present(self) -> bool:
        return bool(self.kv_groups or self.ffn_channels)


ABSENT = LayerPlan(kv_groups=(), ffn_channels=())


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry per layer of the base model."""

    layers: tuple[LayerPlan, ...]

    @property
    def kept_layers(self) -> tuple[int, ...]:
        return tuple(index for index, layer in enumerate(self.layers) if layer.present)


def whole_plan(allocation: Allocation) -> Plan:
    """The plan where every layer keeps the first units of each kind, or all it has."""
    return Plan(
        tuple(
            LayerPlan(kv_groups=tuple(range(b.kv_groups)), ffn_channels=tuple(range(b.ffn_channels)))
            for b in allocation
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A nested removal order of one layer's units: every width is a prefix removed, so all levels share one ranking.

    `order` holds all unit indices, the first to go first. `costs` [units], float64 on the CPU, is by unit index what
    the unit's removal costs in the method's own currency at its turn; allocation compares costs across layers.
    """

    order: tuple[int, ...]
    costs: Tensor

    def kept(self, count: int) -> tuple[int, ...]:
        """Ascending indices of the `count` units that go last."""
        return tuple(sorted(self.order[len(self.order) - count :]))


def rank_by_score(scores: Tensor | Sequence[float]) -> Ranking:
    """Lowest score goes first; of equal scores the later index goes first. A score is the cost of its unit."""
    values = [float(score) for score in (scores.tolist() if isinstance(scores, Tensor) else scores)]
    order = sorted(range(len(values)), key=lambda index: (values[index], -index))
    return Ranking(order=tuple(order), costs=torch.tensor(values, dtype=torch.float64))
