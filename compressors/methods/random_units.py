"""Random FFN channels: the calibration-free arm that every informed choice must beat."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.registry import Method, WidthEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomConfig:
    """No knobs: the run's seed decides."""


def select(config: RandomConfig, evidence: WidthEvidence, kept: int) -> tuple[int, ...]:
    return tuple(sorted(evidence.random.sample(range(evidence.group.count), kept)))


METHOD = Method(
    name="random",
    config=RandomConfig(),
    units=("ffn",),
    needs_calibration=False,
    paper="the random-rows control of PruneNet (arXiv 2501.15296)",
    select_width=select,
)
