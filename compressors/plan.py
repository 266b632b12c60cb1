"""Which units survive in each layer: the only thing that a method decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """Ascending indices of what survives, counted in the base model's units; a dropped layer has `present` False."""

    present: bool = True
    kv_groups: tuple[int, ...]
    ffn_channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry per layer of the base model."""

    layers: tuple[LayerPlan, ...]

    @property
    def kept_layers(self) -> tuple[int, ...]:
        return tuple(index for index, layer in enumerate(self.layers) if layer.present)


def keep_highest(scores: Tensor | Sequence[float], count: int) -> tuple[int, ...]:
    """Indices of the `count` highest scores, ascending; of equal scores the earlier index is kept."""
    values = [float(score) for score in scores]
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    return tuple(sorted(order[:count]))
