"""LayerChop: layers go by their place alone, without a look at text, and training on much of it is to heal the model.

The abstract of the paper says that layers are removed deterministically, and that what counts is continued pre-training
afterwards (here `recover --method full`); which layers it is does not say. Hence two places: evenly spread over the
depth, which cost less on the demo model (`benchmarks/layer_chop_*.md`), or the last in front of the final one. The
first layer and the last, which build and read the states, stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from compressors.depth import DEPTH_UNITS, DepthEvidence, Protection, Removal
from compressors.plan import Allocation
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChopConfig:
    """ "interleaved" spreads the removals evenly over the layers that may go, "end" takes the last of those."""

    place: Literal["interleaved", "end"] = "interleaved"
    protection: Protection = field(default_factory=Protection)


def chopped(options: Sequence[Removal], count: int, place: str) -> list[Removal]:
    """`count` of the options, which are in order of layers; evenly spread ones are the middles of equal stretches."""
    if place == "end":
        return list(options[len(options) - count :])
    return [options[(2 * turn + 1) * len(options) // (2 * count)] for turn in range(count)]


def select(config: LayerChopConfig, evidence: DepthEvidence) -> Allocation:
    return evidence.without(
        removal
        for kind, count in evidence.removed.items()
        for removal in chopped(evidence.removable(kind, config.protection), count, config.place)
    )


METHOD = Method(
    name="layer_chop",
    config=LayerChopConfig(),
    units=DEPTH_UNITS,
    needs="nothing",
    paper="Jha et al., Just CHOP (arXiv 2305.14864)",
    select_depth=select,
)
