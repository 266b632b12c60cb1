"""Global threshold: the costs of all units of all layers in one list, from which the cheapest go.

Costs of different halves have different scales, so each half's are standardised first, as FLAP does (arXiv
2312.11983); units weigh in the budget by what they cost it. Costs come from the method's own rankings on the dense
model, made non-decreasing along the order, because a unit can only go after those before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Target, resized
from compressors.arch import Half
from compressors.level_building import build_levels
from compressors.plan import Allocation, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalThresholdConfig:
    """`standardise` off compares the method's raw costs across layers."""

    standardise: bool = True


def allocate(config: GlobalThresholdConfig, problem: Problem) -> Allocation:
    space = problem.target.space
    narrowest = {(index, unit): (space.widths[unit][0],) for index, unit in space.halves}
    job = replace(problem.job, repair="none")
    library = build_levels(problem.model, job, problem.windows, space.dense_allocation, narrowest)
    prices = {half: unit_prices(ranking, config.standardise) for half, ranking in library.rankings.items()}
    return cheapest_first(problem.target, prices)


def unit_prices(ranking: Ranking, standardise: bool) -> list[float]:
    """[units] in removal order, never falling."""
    costs = ranking.costs
    if standardise:
        spread = float(costs.std(correction=0))
        costs = (costs - costs.mean()) / (spread or 1.0)
    return list(accumulate((float(costs[unit]) for unit in ranking.order), max))


def cheapest_first(target: Target, prices: dict[Half, list[float]]) -> Allocation:
    """Narrows the half whose next notch is cheapest per unit until the budget holds; then widens what still fits."""
    allocation = target.space.dense_allocation
    queues = {half: _notches(target, half, price) for half, price in prices.items()}
    heap = [(next(queue), half) for half, queue in queues.items() if len(target.space.widths[half[1]]) > 1]
    heapq.heapify(heap)
    removed: list[tuple[Half, int]] = []
    while not target.holds(allocation):
        (_, count), half = heapq.heappop(heap)
        removed.append((half, allocation[half[0]].count(half[1])))
        allocation = resized(allocation, half, count)
        following = next(queues[half], None)
        if following is not None:
            heapq.heappush(heap, (following, half))
    return _given_back(target, allocation, removed)


def _notches(target: Target, half: Half, prices: list[float]) -> Iterator[tuple[float, int]]:
    """(mean price of the units that go, width left), notch after notch."""
    for wide, narrow in pairwise(reversed(target.space.widths[half[1]])):
        going = prices[len(prices) - wide : len(prices) - narrow]
        yield sum(going) / len(going), narrow


def _given_back(target: Target, allocation: Allocation, removed: list[tuple[Half, int]]) -> Allocation:
    """Undoes notches, the dearest first, where the last one removed more than was needed."""
    for half, wider in reversed(removed):
        index, unit = half
        if target.space.next_wider(unit, allocation[index].count(unit)) != wider:
            continue
        restored = resized(allocation, half, wider)
        if target.holds(restored):
            allocation = restored
    return allocation


ALLOCATOR = Allocator(
    name="global_threshold",
    config=GlobalThresholdConfig(),
    needs_text=False,
    paper="An et al., FLAP (arXiv 2312.11983)",
    allocate=allocate,
    survey="rankings",
)
