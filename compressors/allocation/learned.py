"""Learned: units go by the probabilities that a learning method ends with, whichever layer they are in.

The probabilities were learnt under this budget, so nothing is left to search: the least likely units go until the
budget holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressors.allocation.global_threshold import cheapest_first, unit_prices
from compressors.allocation.problem import Allocator, Problem
from compressors.plan import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedConfig:
    """No knobs."""


def allocate(config: LearnedConfig, problem: Problem) -> Allocation:
    prices = {half: unit_prices(problem.job.rankings[half], standardise=False) for half in problem.target.space.halves}
    return cheapest_first(problem.target, prices)


ALLOCATOR = Allocator(
    name="learned",
    config=LearnedConfig(),
    needs_text=False,
    paper="Gao et al., Bypass Back-propagation (arXiv 2406.10576)",
    allocate=allocate,
)
