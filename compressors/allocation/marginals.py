"""What one half layer's width does to the whole model: KL divergence with one half changed and the rest as it is.

Around a base allocation these differences nearly add up, which is what the dynamic programme needs. Measured on the
output and not on the half's own error, they know how much the layers behind care.
"""

from __future__ import annotations

from collections.abc import Mapping

from compressors.allocation.additive import Option, best_options
from compressors.allocation.space import Target, WidthSpace, resized
from compressors.arch import Half
from compressors.divergence import DivergenceBench
from compressors.levels import LevelLibrary
from compressors.plan import Allocation

# Ascending counts by half.
Grid = Mapping[Half, tuple[int, ...]]
Options = Mapping[Half, tuple[Option, ...]]


def grid_around(space: WidthSpace, base: Allocation, step: float, reach: int, *, absent: bool = False) -> Grid:
    """Up to `reach` levels to either side of the base, `step` of the dense width apart but at least a notch.

    The whole half is always a level, and with `absent` the missing half too.
    """
    return {half: _levels(space, half, base, step, reach, absent) for half in space.halves}


def _levels(space: WidthSpace, half: Half, base: Allocation, step: float, reach: int, absent: bool) -> tuple[int, ...]:
    index, unit = half
    here, full = base[index].count(unit), space.dense.count(unit)
    found = {here, full} | ({0} if absent else set())
    for neighbour in (space.next_narrower, space.next_wider):
        count: int | None = here
        for number in range(1, reach + 1):
            sign = 1 if neighbour == space.next_wider else -1
            wish = space.nearest(unit, here + sign * number * step * full)
            notch = None if count is None else neighbour(unit, count)
            if notch is None:
                break
            count = max(wish, notch) if sign > 0 else min(wish, notch)
            found.add(count)
    return tuple(sorted(found))


def marginal_options(
    bench: DivergenceBench,
    library: LevelLibrary,
    target: Target,
    base: Allocation,
    grid: Grid,
    max_tokens: int | None = None,
) -> Options:
    """By half its levels with their costs and the KL divergence in nats per token that they add to the base's."""
    candidates = [(half, count, resized(base, half, count)) for half, counts in grid.items() for count in counts]
    found = bench.divergences([base, *(candidate for _, _, candidate in candidates)], library, max_tokens)
    options: dict[Half, tuple[Option, ...]] = dict.fromkeys(grid, ())
    for (half, count, _), divergence in zip(candidates, found[1:], strict=True):
        option = Option(count, target.costs.half(half[1], count), divergence - found[0])
        options[half] = (*options[half], option)
    return options


def best_sum(target: Target, base: Allocation, options: Options) -> Allocation | None:
    """The allocation of least summed error within the budget; halves without options stay as in the base."""
    narrowed = target.costs.of(base) - sum(target.costs.half(unit, base[index].count(unit)) for index, unit in options)
    chosen = best_options(tuple(options.values()), target.limit - narrowed)
    if chosen is None:
        return None
    allocation = base
    for half, option in zip(options, chosen, strict=True):
        allocation = resized(allocation, half, option.count)
    return allocation
