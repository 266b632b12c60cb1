"""Dynamic programme: the widths whose separately measured damages add up to least under the budget.

Starts from the uniform allocation, measures each half layer at each level there, and takes the exact optimum of the
sum. One pass for the levels, one for all measurements; no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressors.allocation.marginals import Grid, best_sum, grid_around, marginal_options
from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Target
from compressors.allocation.uniform import uniform_within
from compressors.divergence import DivergenceBench
from compressors.level_building import build_levels
from compressors.plan import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicProgrammeConfig:
    """Levels lie `step` of the dense width apart, up to `reach` to either side of the uniform width.

    `measured_tokens` of the calibration text judge each level.
    """

    step: float = 0.125
    reach: int = 3
    measured_tokens: int = 8192


def levels(config: DynamicProgrammeConfig, target: Target) -> Grid:
    return grid_around(target.space, uniform_within(target), config.step, config.reach)


def allocate(config: DynamicProgrammeConfig, problem: Problem) -> Allocation:
    target, windows = problem.target, problem.required_windows
    base, grid = uniform_within(target), levels(config, target)
    library = build_levels(problem.model, problem.job, windows, base, grid, problem.progress, problem.folder)
    bench = DivergenceBench(problem.model, windows)
    options = marginal_options(bench, library, target, base, grid, config.measured_tokens)
    library.drop()
    chosen = best_sum(target, base, options) or base
    return target.filled(chosen, dict.fromkeys(target.space.halves, 0.0))


ALLOCATOR = Allocator(
    name="dynamic_programme",
    config=DynamicProgrammeConfig(),
    needs_text=True,
    paper="knapsack over layer-wise levels as in ZipLM (arXiv 2302.04089), with damages measured on the output",
    allocate=allocate,
    survey="levels",
    levels=levels,
)
