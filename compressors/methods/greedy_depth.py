"""Greedy depth: again and again the one removal that moves the model's predictions least, measured anew each time.

Re-measuring is the point. What a layer is worth depends on which others are still there: of two layers that undo each
other neither can go alone, and after one has gone the other is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from compressors.depth import DEPTH_UNITS, DepthEvidence, Protection, Removal
from compressors.divergence import DivergenceBench
from compressors.plan import Allocation
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyDepthConfig:
    """`tokens` is how much of the calibration text judges each removal."""

    tokens: int = 32768
    protection: Protection = field(default_factory=Protection)


def select(config: GreedyDepthConfig, evidence: DepthEvidence) -> Allocation:
    bench = evidence.bench()
    gone: list[Removal] = []
    total = sum(evidence.removed.values())
    while len(gone) < total:
        evidence.progress("allocate", len(gone), total)
        gone.append(_cheapest(_options(config, evidence, gone), gone, config, evidence, bench))
    return evidence.without(gone)


def _options(config: GreedyDepthConfig, evidence: DepthEvidence, gone: list[Removal]) -> list[Removal]:
    """What may go next: of every kind that has not lost its number yet."""
    left = {kind: count - sum(lost == kind for lost, _ in gone) for kind, count in evidence.removed.items()}
    return [
        removal
        for kind, count in left.items()
        if count > 0
        for removal in evidence.removable(kind, config.protection)
        if removal not in gone
    ]


def _cheapest(
    options: list[Removal],
    gone: list[Removal],
    config: GreedyDepthConfig,
    evidence: DepthEvidence,
    bench: DivergenceBench,
) -> Removal:
    """Of equals the later one goes."""
    candidates = [evidence.without((*gone, option)) for option in options]
    found = bench.divergences(candidates, max_tokens=config.tokens)
    return options[min(range(len(options)), key=lambda place: (found[place], -place))]


METHOD = Method(
    name="greedy_kl",
    config=GreedyDepthConfig(),
    units=DEPTH_UNITS,
    needs="energy",
    paper="after Song et al., SLEB (arXiv 2402.09025) and Kim et al., Shortened LLaMA (arXiv 2402.02834), "
    "with KL divergence in place of perplexity",
    select_depth=select,
    survey="candidates",
)
