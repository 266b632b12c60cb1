"""Which allocations there are, which of them a budget allows, and how wishes become one of those."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from artifacts.errors import ConfigError
from compressors.arch import WIDTH_UNITS, Half, WidthUnit
from compressors.costs import CostModel
from compressors.plan import Allocation, LayerBudget

_BISECTIONS = 60
_TOLERANCE = 1e-12

# Share of its units that a half layer is to lose.
Shares = Mapping[Half, float]


@dataclass(frozen=True, kw_only=True)
class WidthSpace:
    """Widths of `layers` layers that are `dense` wide now. Only `units` shrink; FFN widths are multiples or whole."""

    layers: int
    dense: LayerBudget
    units: tuple[WidthUnit, ...]
    multiple_of: int

    @cached_property
    def dense_allocation(self) -> Allocation:
        return (self.dense,) * self.layers

    @cached_property
    def halves(self) -> tuple[Half, ...]:
        """Those that may shrink, in computing order."""
        return tuple((index, unit) for index in range(self.layers) for unit in WIDTH_UNITS if unit in self.units)

    @cached_property
    def widths(self) -> Mapping[WidthUnit, tuple[int, ...]]:
        """Ascending counts a half may have; never 0."""
        return {unit: self._widths(unit) for unit in WIDTH_UNITS}

    def nearest(self, unit: WidthUnit, wish: float) -> int:
        """The permitted width nearest to `wish`; of two the wider."""
        return min(self.widths[unit], key=lambda count: (abs(count - wish), -count))

    def next_wider(self, unit: WidthUnit, count: int) -> int | None:
        return next((width for width in self.widths[unit] if width > count), None)

    def next_narrower(self, unit: WidthUnit, count: int) -> int | None:
        return next((width for width in reversed(self.widths[unit]) if width < count), None)

    def at_shares(self, shares: Shares) -> Allocation:
        """Each half nearest to its wish; a half without a wish stays whole."""
        allocation = self.dense_allocation
        for (index, unit), share in shares.items():
            wish = (1 - min(max(share, 0.0), 1.0)) * self.dense.count(unit)
            allocation = resized(allocation, (index, unit), self.nearest(unit, wish))
        return allocation

    def _widths(self, unit: WidthUnit) -> tuple[int, ...]:
        full = self.dense.count(unit)
        if unit not in self.units:
            return (full,)
        step = self.multiple_of if unit == "ffn" else 1
        return (*range(step, full, step), full)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The allocations of a space that cost at most `limit`."""

    space: WidthSpace
    costs: CostModel
    limit: float

    def holds(self, allocation: Allocation) -> bool:
        return self.costs.of(allocation) <= self.limit

    def fit(self, shares_at: Callable[[float], Shares]) -> Allocation:
        """The weakest removal that meets the budget; shares must grow with the strength that they are asked at.

        What rounding leaves of the budget goes back to the halves that rounding hurt most. `shares_at` must come to
        narrow every half as far as it goes when the strength grows without end.
        """
        low, high = 0.0, 1.0
        while not self.holds(self.space.at_shares(shares_at(high))):
            low, high = high, high * 2
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.holds(self.space.at_shares(shares_at(middle))):
                high = middle
            else:
                low = middle
        shares = shares_at(high)
        return self.filled(self.space.at_shares(shares), shares)

    def filled(self, allocation: Allocation, shares: Shares) -> Allocation:
        """Widens halves notch by notch, always the one furthest below its wish, while the budget allows any."""

        def lack(half: Half) -> float:
            index, unit = half
            return 1 - shares[half] - allocation[index].count(unit) / self.space.dense.count(unit)

        while True:
            order = sorted(shares, key=lack, reverse=True)
            wider = next((found for half in order if (found := self.widened(allocation, half)) is not None), None)
            if wider is None:
                return allocation
            allocation = wider

    def widened(self, allocation: Allocation, half: Half) -> Allocation | None:
        """One half a notch wider, or None if it is whole already or the budget forbids it."""
        index, unit = half
        count = self.space.next_wider(unit, allocation[index].count(unit))
        if count is None:
            return None
        wider = resized(allocation, half, count)
        return wider if self.holds(wider) else None


def require_target(space: WidthSpace, costs: CostModel, ratio: float) -> Target:
    """The target that removes the share `ratio` of the dense cost.

    Only kinds of units that the cost sees stay in the space. Raises ConfigError if no allocation is as cheap, or if the
    FFN width cannot be rounded.
    """
    width = space.dense.ffn_channels
    if "ffn" in space.units and not 1 <= space.multiple_of <= width:
        raise ConfigError(
            f"FFN width {width} cannot be rounded to a multiple of {space.multiple_of}. "
            f"Give --multiple-of from 1 to {width}."
        )
    useful = replace(space, units=tuple(unit for unit in space.units if costs.sees(unit)))
    dense = costs.of(space.dense_allocation)
    target = Target(space=useful, costs=costs, limit=(1 - ratio) * dense * (1 + _TOLERANCE))
    least = costs.of(useful.at_shares(dict.fromkeys(useful.halves, 1.0)))
    if least > target.limit:
        largest = math.floor((1 - least / dense) * 1000) / 1000
        raise ConfigError(
            f"ratio {ratio:g} of {costs.kind} cannot be reached by narrowing {' and '.join(space.units)}. "
            f"The largest possible ratio is {largest:g}; lower it or give more --units."
        )
    return target


def resized(allocation: Allocation, half: Half, count: int) -> Allocation:
    """The same with one half at `count` units."""
    index, unit = half
    old = allocation[index]
    layer = replace(old, kv_groups=count) if unit == "kv" else replace(old, ffn_channels=count)
    return (*allocation[:index], layer, *allocation[index + 1 :])
