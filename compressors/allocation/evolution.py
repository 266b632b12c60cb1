"""One evolution over a fixed set of levels: mutate within the budget, screen by divergence, keep the best.

A mutation narrows some halves a level, or widens some, then narrows or widens others at random until the budget holds
and nothing more fits. So every candidate costs at most the limit and lies as close below it as the levels allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from compressors.allocation.marginals import Grid
from compressors.allocation.space import Target, resized
from compressors.arch import Half
from compressors.plan import Allocation

# Divergences in nats per token of candidates on the first so many tokens.
Judge = Callable[[Sequence[Allocation], int | None], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """In each round the best `survivors` on `tokens` tokens go on; None is all tokens."""

    tokens: int | None
    survivors: int


@dataclass(frozen=True, slots=True)
class Mutation:
    """Moves between the levels of a grid under a target."""

    target: Target
    grid: Grid
    most_moves: int

    def __call__(self, parent: Allocation, random: Random) -> Allocation:
        """Another allocation within the budget; the parent itself where nothing can move."""
        halves = list(self.grid)
        moves = min(random.randint(1, self.most_moves), random.randint(1, self.most_moves))
        direction = random.choice((-1, 1))
        moved = random.sample(halves, min(moves, len(halves)))
        child = parent
        for half in moved:
            child = self._moved(child, half, direction) or child
        return self._filled(self._reduced(child, set(moved) if direction > 0 else set(), random), set(moved), random)

    def _reduced(self, child: Allocation, spared: set[Half], random: Random) -> Allocation:
        """Narrows random halves until the budget holds, those spared only when nothing else is left."""
        while not self.target.holds(child):
            narrower = {half: found for half in self.grid if (found := self._moved(child, half, -1)) is not None}
            free = [half for half in narrower if half not in spared] or list(narrower)
            child = narrower[random.choice(free)]
        return child

    def _filled(self, child: Allocation, last: set[Half], random: Random) -> Allocation:
        """Widens random halves while the budget allows, those that were just moved only after all others."""
        order = list(self.grid)
        random.shuffle(order)
        order.sort(key=lambda half: half in last)
        for half in order:
            while (wider := self._moved(child, half, 1)) is not None and self.target.holds(wider):
                child = wider
        return child

    def _moved(self, allocation: Allocation, half: Half, direction: int) -> Allocation | None:
        """One half a level narrower or wider; None at the end of its levels."""
        index, unit = half
        levels = self.grid[half]
        place = levels.index(allocation[index].count(unit)) + direction
        return resized(allocation, half, levels[place]) if 0 <= place < len(levels) else None


def evolve(
    parents: Sequence[Allocation],
    mutate: Mutation,
    judge: Judge,
    rounds: Sequence[Screening],
    *,
    generations: int,
    offspring: int,
    random: Random,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Allocation, float]:
    """The best allocation and its divergence in the last round's currency; never worse there than the best parent.

    The last of `rounds` decides who lives; its number of survivors is how many become parents.
    """
    last = rounds[-1]
    alive = dict(zip(parents, judge(parents, last.tokens), strict=True))
    for _ in range(generations):
        pool = list(alive)
        children = list(dict.fromkeys(mutate(random.choice(pool), random) for _ in range(offspring)))
        children = [child for child in children if child not in alive]
        for screening in rounds[:-1]:
            children = _best(children, judge(children, screening.tokens), screening.survivors)
        alive |= dict(zip(children, judge(children, last.tokens), strict=True))
        alive = dict(sorted(alive.items(), key=lambda pair: pair[1])[: last.survivors])
        tick()
    return next(iter(sorted(alive.items(), key=lambda pair: pair[1])))


def _best(candidates: list[Allocation], divergences: list[float], survivors: int) -> list[Allocation]:
    order = sorted(range(len(candidates)), key=lambda place: divergences[place])
    return [candidates[place] for place in order[:survivors]]
