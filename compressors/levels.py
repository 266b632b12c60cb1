"""Half layers at every width a search may ask for.

A width is a prefix removed from one nested ranking, so a level is known by its count of surviving units alone. Repaired
consumers differ per level; they are made once, where the statistics are at hand, and looked up in a store afterwards.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from compressors.arch import Half, LayerView, WidthUnit
from compressors.level_store import LevelStore, MemoryLevels
from compressors.plan import Ranking
from compressors.surgery import keep_units, remove_half


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
    """Rankings by half, and where the repaired consumers are."""

    rankings: dict[Half, Ranking] = field(default_factory=dict)
    store: LevelStore = field(default_factory=MemoryLevels)

    def at(self, index: int, layer: LayerView, unit: WidthUnit, count: int) -> LayerView:
        if count == layer.count(unit):
            return layer
        if count == 0:
            return without_half(layer, unit)
        cut = with_own_half(layer, unit)
        group = cut.group(unit)
        keep_units(group, self.rankings[index, unit].kept(count))
        repaired = self.store.find((index, unit), count)
        if repaired is not None:
            like = group.consumer.weight
            group.consumer.weight = nn.Parameter(repaired.weight.to(like), requires_grad=False)
            if repaired.bias is not None:
                group.consumer.bias = nn.Parameter(repaired.bias.to(like), requires_grad=False)
        return cut

    def drop(self) -> None:
        """Forgets everything: a search's next levels are built when its last ones are gone."""
        self.rankings.clear()
        self.store.drop()


def without_half(layer: LayerView, unit: WidthUnit) -> LayerView:
    """The same block with a half taken out; weights are shared."""
    view = LayerView(_shallow(layer.module))
    remove_half(view, unit)
    return view


def with_own_half(layer: LayerView, unit: WidthUnit) -> LayerView:
    """The same block with one half that may be cut; all weights are shared until surgery puts others in their place."""
    module = _shallow(layer.module)
    name = "self_attn" if unit == "kv" else "mlp"
    half = getattr(module, name)
    shared = {id(own): nn.Parameter(own.detach(), requires_grad=False) for own in half.parameters()}
    setattr(module, name, copy.deepcopy(half, dict(shared)))
    return LayerView(module)


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
