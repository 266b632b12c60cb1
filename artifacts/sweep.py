"""`sweep.json`: throughput of the server against speed for each user, over levels of load, one front per variant.

More load makes a server write more tokens per second in all and fewer for each user. Where one variant is better for
every user speed, it dominates; where the fronts cross, the answer depends on how fast answers must be.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from artifacts.document import Document
from artifacts.provenance import Provenance
from artifacts.run import Comparison, Gate, Level, Workload
from artifacts.slo import Slo

SWEEP_NAME = "sweep.json"
LEVELS_NAME = "levels"


class SweepPoint(Document):
    """One variant at one level. `per_user` is 1 / TPOT p50; null where a level measured none.

    The `block_*` tuples hold the same per block, for their spread; an unusable point is on no front.
    """

    level: Level
    folder: str = Field(description="the run directory, relative to sweep.json; its arms are all variants")
    valid: bool
    failed_gates: tuple[Gate, ...]
    output_tokens_per_s: float | None
    output_tokens_per_s_per_user: float | None
    block_output_tokens_per_s: tuple[float, ...]
    block_output_tokens_per_s_per_user: tuple[float, ...]
    goodput_per_s: float | None = Field(description="requests per second within the SLO; null without one")
    measures: dict[str, float | None] = Field(description="keys: artifacts.measures.MEASURES")
    on_front: bool = Field(description="no valid point of this variant is better in one and as good in the other")

    @property
    def place(self) -> tuple[float, float] | None:
        """(per user, in all), where it may stand on a front."""
        if not self.valid or self.output_tokens_per_s is None or self.output_tokens_per_s_per_user is None:
            return None
        return self.output_tokens_per_s_per_user, self.output_tokens_per_s


class SweptVariant(Document):
    model: str
    fingerprint: str | None
    points: tuple[SweepPoint, ...]


class DominanceArea(Document):
    """A span of user speeds in which one of the two fronts is higher.

    `ratio` is the model's throughput over the reference's there, each that of its own best level with users at least
    as fast; null where only one of them has such a level, `winner` then.
    """

    from_per_user: float
    to_per_user: float
    winner: str | None = Field(description="null where both are equal")
    ratio: float | None


class Dominance(Document):
    """`model` beside `against` over all user speeds that either reaches, from 0 upwards."""

    model: str
    against: str
    areas: tuple[DominanceArea, ...]


class Sweep(Document):
    """The content of `sweep.json`."""

    schema_version: Literal[1] = 1
    url: str
    slo: Slo | None
    workload: Workload
    duration_s: float = Field(description="measured seconds of each variant at each level, all blocks together")
    blocks: int
    warmup_s: float
    variants: tuple[SweptVariant, ...]
    comparisons: tuple[tuple[Comparison, ...], ...] = Field(description="per level, each other variant to the first")
    dominance: tuple[Dominance, ...] = Field(description="each other variant against the first")
    provenance: Provenance
