"""What a depth method may look at, and what it may remove: whole layers, attention sublayers or FFN sublayers.

A removal is a kind and a layer's index. A choice is a set of removals, an allocation is what is left after them; depth
methods search over sets and hand back the allocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from compressors.arch import WidthUnit
from compressors.blocks import BlockModel
from compressors.divergence import DivergenceBench
from compressors.plan import Allocation, LayerBudget
from compressors.streams import half_states, hidden_states

DepthUnit = Literal["layers", "attention_sublayers", "ffn_sublayers"]
Removal = tuple[DepthUnit, int]

DEPTH_UNITS: tuple[DepthUnit, ...] = ("layers", "attention_sublayers", "ffn_sublayers")
HALVES_OF: dict[DepthUnit, tuple[WidthUnit, ...]] = {
    "layers": ("kv", "ffn"),
    "attention_sublayers": ("kv",),
    "ffn_sublayers": ("ffn",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """How many whole layers at either end a search leaves alone: the first builds the states, the last turns them into
    predictions. Their halves may go; measured, that is often the cheapest attention (`benchmarks/depth_*.md`)."""

    first: int = 1
    last: int = 1

    def spares(self, index: int, layers: int) -> bool:
        return index < self.first or index >= layers - self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthEvidence:
    """`base` is what each layer has now, `removed` how many of each kind have to go, `windows` [N, T] token ids, None
    for a method that needs none.

    `random` is seeded by the run's seed. Hidden states and the bench are made anew at each call, one block in memory.
    """

    base: Allocation
    removed: Mapping[DepthUnit, int]
    model: BlockModel
    windows: Tensor | None
    random: Random
    progress: Progress = silent

    @property
    def required_windows(self) -> Tensor:
        """Raises ConfigError without calibration."""
        if self.windows is None:
            raise ConfigError("This method needs calibration text. Give --calibration FILE or a hub dataset.")
        return self.windows

    def hidden_states(self) -> Iterator[Tensor]:
        """[N, T, D] before layer 0, after it, ... after the last: one more than there are layers."""
        return hidden_states(self.model, self.required_windows)

    def half_states(self) -> Iterator[Tensor]:
        """[N, T, D] before layer 0, behind its attention, behind its FFN, ...: one more than twice the layers."""
        return half_states(self.model, self.required_windows)

    def bench(self) -> DivergenceBench:
        """Judges allocations by their KL divergence from the model as it is."""
        return DivergenceBench(self.model, self.required_windows)

    def removable(self, kind: DepthUnit, protection: Protection) -> tuple[Removal, ...]:
        """All removals of a kind, of whole layers those outside the protected ends, in order of layers.

        The protection yields where it would leave too few to choose from: a small model can be pruned as well.
        """
        present = [index for index, budget in enumerate(self.base) if is_present(budget, kind)]
        if kind != "layers":
            return tuple((kind, index) for index in present)
        inner = [index for index in present if not protection.spares(index, len(self.base))]
        chosen = inner if len(inner) >= self.removed.get(kind, 0) else present
        return tuple((kind, index) for index in chosen)

    def without(self, removals: Iterable[Removal]) -> Allocation:
        return without(self.base, removals)


def is_present(budget: LayerBudget, kind: DepthUnit) -> bool:
    """Whether the layer has anything of this kind that could go."""
    return any(budget.count(unit) > 0 for unit in HALVES_OF[kind])


def without(base: Allocation, removals: Iterable[Removal]) -> Allocation:
    """What is left of each layer."""
    left = list(base)
    for kind, index in removals:
        for unit in HALVES_OF[kind]:
            absent = {"kv_groups": 0} if unit == "kv" else {"ffn_channels": 0}
            left[index] = replace(left[index], **absent)
    return tuple(left)
