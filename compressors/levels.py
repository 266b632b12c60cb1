"""Half layers at every width a search may ask for.

A width is a prefix removed from one nested ranking, so a level is known by its count of surviving units alone. Repaired
consumers differ per level and are made once, where the statistics are at hand, and looked up afterwards.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from compressors.arch import LayerView, WidthUnit
from compressors.plan import Ranking
from compressors.surgery import keep_units, remove_half

Half = tuple[int, WidthUnit]


class LevelSource(Protocol):
    """Gives half layers of a width."""

    def at(self, index: int, layer: LayerView, unit: WidthUnit, count: int) -> LayerView:
        """Block `index` with its half `unit` at `count` units; the other half and the layer given stay untouched."""


class WholeHalves:
    """Halves are there or not: all that depth pruning needs."""

    def at(self, index: int, layer: LayerView, unit: WidthUnit, count: int) -> LayerView:
        return layer if count else without_half(layer, unit)


@dataclass(frozen=True, slots=True)
class LevelLibrary:
    """Rankings by half; by half and count, repaired consumers' weights [rows, kept columns] and biases [rows]."""

    rankings: dict[Half, Ranking] = field(default_factory=dict)
    consumers: dict[tuple[Half, int], Tensor] = field(default_factory=dict)
    biases: dict[tuple[Half, int], Tensor] = field(default_factory=dict)

    def at(self, index: int, layer: LayerView, unit: WidthUnit, count: int) -> LayerView:
        if count == layer.count(unit):
            return layer
        if count == 0:
            return without_half(layer, unit)
        cut = with_own_half(layer, unit)
        group = cut.group(unit)
        keep_units(group, self.rankings[index, unit].kept(count))
        repaired = self.consumers.get(((index, unit), count))
        if repaired is not None:
            group.consumer.weight = nn.Parameter(repaired.to(group.consumer.weight), requires_grad=False)
        bias = self.biases.get(((index, unit), count))
        if bias is not None:
            group.consumer.bias = nn.Parameter(bias.to(group.consumer.weight), requires_grad=False)
        return cut


def without_half(layer: LayerView, unit: WidthUnit) -> LayerView:
    """The same block with a half taken out; weights are shared."""
    view = LayerView(_shallow(layer.module))
    remove_half(view, unit)
    return view


def with_own_half(layer: LayerView, unit: WidthUnit) -> LayerView:
    """The same block with a copy of one half that may be cut; the rest is shared."""
    module = _shallow(layer.module)
    name = "self_attn" if unit == "kv" else "mlp"
    setattr(module, name, copy.deepcopy(getattr(module, name)))
    return LayerView(module)


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
