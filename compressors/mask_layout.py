"""Which number of a mask vector stands for which unit of which half layer, and what a budget lets stay of them.

Width masks hold a number for every FFN channel and KV group; depth masks one for each layer, or half of one, that may
go. Either way a vector says for every half what is left of it, and learnt probabilities become whole units again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.allocation.space import Target
from compressors.arch import Half, WidthUnit
from compressors.bernoulli import Limit
from compressors.depth import HALVES_OF, DepthUnit, Removal, is_present
from compressors.plan import Allocation, Ranking, rank_by_score


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthLayout:
    """Each half's units one after the other, in computing order."""

    spans: Mapping[Half, slice]

    @classmethod
    def of(cls, base: Allocation, units: tuple[WidthUnit, ...]) -> WidthLayout:
        spans, start = {}, 0
        for index, layer in enumerate(base):
            for unit in units:
                if (count := layer.count(unit)) > 0:
                    spans[index, unit] = slice(start, start + count)
                    start += count
        return cls(spans=spans)

    @property
    def size(self) -> int:
        return max((span.stop for span in self.spans.values()), default=0)

    def spread(self, masks: Tensor) -> dict[Half, Tensor]:
        return {half: masks[:, span] for half, span in self.spans.items()}

    def rankings(self, probabilities: Tensor) -> dict[Half, Ranking]:
        """The least likely unit goes first; its probability is its cost."""
        return {half: rank_by_score(probabilities[span]) for half, span in self.spans.items()}

    def within(self, allocation: Allocation) -> tuple[Limit, ...]:
        """As many units of each half as an allocation that is known beforehand keeps."""
        return tuple(
            Limit(
                span=span,
                costs=torch.ones(span.stop - span.start, dtype=torch.float64),
                most=float(allocation[index].count(unit)),
            )
            for (index, unit), span in self.spans.items()
        )

    def under(self, target: Target) -> tuple[Limit, ...]:
        """One limit for all units of all layers. Costs that are not straight in the width count by their mean slope."""
        costs, most = torch.empty(self.size, dtype=torch.float64), target.limit - target.costs.fixed
        dense = target.space.dense_allocation
        for index, layer in enumerate(dense):
            for unit in target.costs.halves:
                full = layer.count(unit)
                span = self.spans.get((index, unit))
                first, last = target.costs.half(unit, min(1, full)), target.costs.half(unit, full)
                slope = (last - first) / (full - 1) if full > 1 else last
                most -= last if span is None else last - slope * full
                if span is not None:
                    costs[span] = slope
        # A budget in bytes or seconds may be a tiny number: relative costs keep the arithmetic away from that.
        scale = float(costs.max())
        return (Limit(span=slice(0, self.size), costs=costs / scale, most=most / scale),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthLayout:
    """A number for each removal that is possible, kind after kind."""

    base: Allocation
    options: Mapping[DepthUnit, tuple[Removal, ...]]
    removed: Mapping[DepthUnit, int]

    @classmethod
    def of(cls, base: Allocation, removed: Mapping[DepthUnit, int]) -> DepthLayout:
        options = {
            kind: tuple((kind, index) for index, layer in enumerate(base) if is_present(layer, kind))
            for kind in removed
        }
        return cls(base=base, options=options, removed=removed)

    @property
    def size(self) -> int:
        return sum(len(options) for options in self.options.values())

    @property
    def _numbered(self) -> list[Removal]:
        return [removal for options in self.options.values() for removal in options]

    def spread(self, masks: Tensor) -> dict[Half, Tensor]:
        return {
            (index, unit): masks[:, place : place + 1]
            for place, (kind, index) in enumerate(self._numbered)
            for unit in HALVES_OF[kind]
        }

    def limits(self) -> tuple[Limit, ...]:
        """Of each kind the number that stays."""
        found, start = [], 0
        for kind, options in self.options.items():
            span = slice(start, start + len(options))
            costs = torch.ones(len(options), dtype=torch.float64)
            found.append(Limit(span=span, costs=costs, most=float(len(options) - self.removed[kind])))
            start = span.stop
        return tuple(found)

    def removals(self, probabilities: Tensor) -> list[Removal]:
        """Of each kind the least likely to stay; of equals the later layer."""
        chosen: list[Removal] = []
        for limit, (kind, options) in zip(self.limits(), self.options.items(), strict=True):
            order = rank_by_score(probabilities[limit.span]).order
            chosen += [options[place] for place in order[: self.removed[kind]]]
        return chosen
