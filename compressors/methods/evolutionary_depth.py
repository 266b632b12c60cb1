"""Evolutionary depth: sets of removals that mutate by swaps, judged by KL divergence on few tokens, then on more.

Greedy choice cannot undo a removal and cannot see that two layers are free only together; a search over sets can. The
parent always competes in the last round, so the result is never worse than its best start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from compressors.depth import DEPTH_UNITS, DepthEvidence, DepthUnit, Protection, Removal
from compressors.divergence import DivergenceBench
from compressors.plan import Allocation
from compressors.registry import Method

Choice = frozenset[Removal]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionaryDepthConfig:
    """`screens` are (tokens, survivors), the last with one survivor; the search ends early after `patience`
    generations without a better parent. A mutation swaps up to `swaps` removed units for kept ones."""

    initial: int = 32
    offspring: int = 16
    generations: int = 50
    patience: int = 10
    swaps: int = 3
    screens: tuple[tuple[int, int], ...] = ((2048, 4), (32768, 1))
    protection: Protection = field(default_factory=Protection)


@dataclass(frozen=True, slots=True)
class Pool:
    """Of each kind, what may go and how many of it do."""

    options: dict[DepthUnit, tuple[Removal, ...]]
    removed: dict[DepthUnit, int]

    def draw(self, random: Random) -> Choice:
        """Any choice that removes the right numbers, all equally likely."""
        return frozenset(
            r for kind, options in self.options.items() for r in random.sample(options, self.removed[kind])
        )

    def mutate(self, parent: Choice, most: int, random: Random) -> Choice:
        """Small changes are likelier than large ones: the smaller of two drawn numbers of swaps."""
        child = set(parent)
        for _ in range(min(random.randint(1, most), random.randint(1, most))):
            swaps = [kind for kind, options in self.options.items() if 0 < self.removed[kind] < len(options)]
            if not swaps:
                break
            options = self.options[random.choice(swaps)]
            child.remove(random.choice([removal for removal in options if removal in child]))
            child.add(random.choice([removal for removal in options if removal not in child]))
        return frozenset(child)


@dataclass(frozen=True, slots=True)
class Judge:
    """Remembers what it has measured: parents come back in every generation, and small searches repeat themselves."""

    evidence: DepthEvidence
    bench: DivergenceBench
    known: dict[tuple[Choice, int], float] = field(default_factory=dict)

    def best(self, lot: Sequence[Choice], tokens: int, survivors: int) -> list[Choice]:
        """Of equals the earlier ones."""
        if len(lot) <= survivors:
            return list(lot)
        tokens = min(tokens, self.bench.tokens)
        new = [choice for choice in lot if (choice, tokens) not in self.known]
        found = self.bench.divergences([self.evidence.without(choice) for choice in new], max_tokens=tokens)
        self.known.update({(choice, tokens): value for choice, value in zip(new, found, strict=True)})
        return sorted(lot, key=lambda choice: self.known[choice, tokens])[:survivors]


def select(config: EvolutionaryDepthConfig, evidence: DepthEvidence) -> Allocation:
    options = {kind: evidence.removable(kind, config.protection) for kind in evidence.removed}
    pool, judge = Pool(options, dict(evidence.removed)), Judge(evidence, evidence.bench())
    parent = _survivor(None, [pool.draw(evidence.random) for _ in range(config.initial)], config, judge)
    idle = 0
    for generation in range(config.generations):
        evidence.progress("allocate", generation, config.generations)
        children = [pool.mutate(parent, config.swaps, evidence.random) for _ in range(config.offspring)]
        best = _survivor(parent, children, config, judge)
        idle = idle + 1 if best == parent else 0
        parent = best
        if idle >= config.patience:
            break
    return evidence.without(sorted(parent))


def _survivor(
    parent: Choice | None, challengers: Sequence[Choice], config: EvolutionaryDepthConfig, judge: Judge
) -> Choice:
    """The best after all screens; the parent is measured against the last screen's."""
    lot = [choice for choice in dict.fromkeys(challengers) if choice != parent]
    for tokens, survivors in config.screens[:-1]:
        lot = judge.best(lot, tokens, survivors)
    tokens, survivors = config.screens[-1]
    return judge.best([parent, *lot] if parent is not None else lot, tokens, survivors)[0]


METHOD = Method(
    name="evolutionary_depth",
    config=EvolutionaryDepthConfig(),
    units=DEPTH_UNITS,
    needs="energy",
    paper="Sieberling et al., EvoPress (arXiv 2410.14649)",
    select_depth=select,
    survey="candidates",
    candidates=EvolutionaryDepthConfig().initial,
)
