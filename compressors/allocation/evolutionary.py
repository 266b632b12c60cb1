"""Evolutionary search: levels around the best allocation so far, a dynamic programme's proposal, evolution on the KL
divergence to the dense model, then again around the winner with levels half as far apart.

EvoPress (arXiv 2410.14649) mutates levels under a constant budget and screens on growing numbers of tokens; DarwinLM
(2502.07780) does so with structured levels; Tyr-the-Pruner (2503.09657) rebuilds its database around the current best
with a halved interval. Here a level is ranked and repaired as the final pass will do it, and every round's winner is
judged once more on levels built around itself, because that is the model which the final pass writes. The answer is the
best of everything that was judged so, the uniform allocation included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from compressors.allocation.evolution import Mutation, Screening, evolve
from compressors.allocation.marginals import Grid, best_sum, grid_around, marginal_options
from compressors.allocation.problem import Allocator, Problem
from compressors.allocation.space import Target
from compressors.allocation.uniform import uniform_within
from compressors.divergence import DivergenceBench
from compressors.level_building import build_levels
from compressors.levels import LevelLibrary
from compressors.plan import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionaryConfig:
    """`rounds` times: levels `first_step` of the dense width apart (halved each round), `reach` to either side of the
    base; `generations` of `offspring`, screened on `few_tokens`, then `more_tokens`, then on all.

    `measured_tokens` judge single levels for the proposal. `absent_halves` lets whole halves go.
    """

    rounds: int = 3
    first_step: float = 0.125
    reach: int = 3
    generations: int = 6
    offspring: int = 16
    few_tokens: int = 2048
    few_survivors: int = 4
    more_tokens: int = 8192
    more_survivors: int = 1
    parents: int = 2
    most_moves: int = 3
    measured_tokens: int = 4096
    absent_halves: bool = False

    @property
    def screenings(self) -> tuple[Screening, ...]:
        return (
            Screening(tokens=self.few_tokens, survivors=self.few_survivors),
            Screening(tokens=self.more_tokens, survivors=self.more_survivors),
            Screening(tokens=None, survivors=self.parents),
        )


def levels(config: EvolutionaryConfig, target: Target) -> Grid:
    """Those of the first round."""
    base = uniform_within(target)
    return grid_around(target.space, base, config.first_step, config.reach, absent=config.absent_halves)


def allocate(config: EvolutionaryConfig, problem: Problem) -> Allocation:
    return _Search(config, problem).run()


class _Search:
    """The state of one search: what was judged on levels of its own, and how far the search is."""

    def __init__(self, config: EvolutionaryConfig, problem: Problem) -> None:
        self._config, self._problem, self._target = config, problem, problem.target
        self._windows = problem.required_windows
        self._bench = DivergenceBench(problem.model, self._windows)
        self._library = LevelLibrary()
        self._judged: dict[Allocation, float] = {}
        self._done = 0

    def run(self) -> Allocation:
        config = self._config
        base, step = uniform_within(self._target), config.first_step
        for number in range(config.rounds):
            grid = grid_around(self._target.space, base, step, config.reach, absent=config.absent_halves)
            self._build(base, grid)
            best = min(self._judged, key=self._judged.__getitem__)
            if best != base:
                grid = grid_around(self._target.space, best, step, config.reach, absent=config.absent_halves)
                base = best
                self._build(base, grid)
            base = self._round(number, base, grid)
            step /= 2
        self._build(base, {})
        self._library.drop()
        return min(self._judged, key=self._judged.__getitem__)

    def _round(self, number: int, base: Allocation, grid: Grid) -> Allocation:
        library, config, random = self._library, self._config, Random(f"{self._problem.job.seed}/{number}")
        options = marginal_options(self._bench, library, self._target, base, grid, config.measured_tokens)
        mutate = Mutation(self._target, grid, config.most_moves)
        proposals = (base, best_sum(self._target, base, options))
        parents = list(dict.fromkeys(proposal for proposal in proposals if proposal is not None))

        def judge(candidates: Sequence[Allocation], max_tokens: int | None) -> list[float]:
            return self._bench.divergences(candidates, library, max_tokens)

        winner, _ = evolve(
            parents,
            mutate,
            judge,
            config.screenings,
            generations=config.generations,
            offspring=config.offspring,
            random=random,
            tick=self._tick,
        )
        return self._target.filled(winner, dict.fromkeys(self._target.space.halves, 0.0))

    def _build(self, base: Allocation, grid: Grid) -> None:
        """Levels around a base in place of the former ones, and the base's own divergence noted."""
        problem = self._problem
        self._library.drop()
        self._library = build_levels(problem.model, problem.job, self._windows, base, grid, folder=problem.folder)
        (self._judged[base],) = self._bench.divergences([base], self._library)

    def _tick(self) -> None:
        self._done += 1
        self._problem.progress("search", self._done, self._config.rounds * self._config.generations)


ALLOCATOR = Allocator(
    name="evolutionary",
    config=EvolutionaryConfig(),
    needs_text=True,
    paper="EvoPress (arXiv 2410.14649), Tyr-the-Pruner (2503.09657), DarwinLM (2502.07780)",
    allocate=allocate,
    survey="levels",
    levels=levels,
)
