"""`search.json`: which request rate each variant sustains within an SLO, and every level that the answer rests on.

A level is one offered rate, played in one or more looks, each an ordinary run directory under `levels/`. Beside the
answer stands its bracket: the lowest rate above it at which meeting the SLO could not be shown.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.arrivals import Spacing
from artifacts.document import Document
from artifacts.provenance import Provenance
from artifacts.run import Gate, Workload
from artifacts.slo import Slo, SloLimit

SEARCH_NAME = "search.json"
LEVELS_NAME = "levels"

Verdict = Literal["met", "missed", "undecided", "unusable"]
Purpose = Literal["probe", "bisect", "confirm"]
LimitedBy = Literal["server", "undecided", "client", "highest rate", "lowest rate", "levels"]


class SearchPolicy(Document):
    """How the search moves. `precision` is the ratio of the bracket's ends at which it stops."""

    start_rate_per_s: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    growth: float = Field(default=2.0, ge=1.1, le=100, description="step of the probe, up and down")
    precision: float = Field(default=1.1, ge=1.01, le=10)
    lowest_rate_per_s: float = Field(default=0.01, gt=0)
    highest_rate_per_s: float = Field(default=1000.0, gt=0, allow_inf_nan=False)
    most_levels: int = Field(default=40, gt=0, description="of one variant, confirmations included")
    most_looks: int = Field(default=3, gt=0, description="full looks at one level, before it is left undecided")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lowest_rate_per_s <= self.start_rate_per_s <= self.highest_rate_per_s:
            raise ValueError("the start rate must lie between the lowest and the highest rate")
        return self


class Attainment(Document):
    """How many requests were within one limit. `low` and `high` bound the share at the level's confidence.

    `effective_requests` is how many independent requests would say as much: neighbours in a queue are late together.
    """

    limit: SloLimit
    requests: int
    within: int
    effective_requests: float
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)

    @property
    def share(self) -> float | None:
        return self.within / self.requests if self.requests else None


class Look(Document):
    """One run at a level. A pilot is too short to show that a limit is met; it can show that one is missed."""

    folder: str = Field(description="the run directory, relative to search.json")
    pilot: bool
    duration_s: float
    seed: int
    failed_gates: tuple[Gate, ...] = Field(description="of those that make a look unusable")


class SearchedLevel(Document):
    """One rate. Counts and measures are over its usable full looks, or its pilot where there are none."""

    rate_per_s: float
    purpose: Purpose
    verdict: Verdict
    looks: tuple[Look, ...]
    attainments: tuple[Attainment, ...]
    requests: int = 0
    failures: int = 0
    goodput_per_s: float | None = Field(default=None, description="requests per second that were within every limit")
    measures: dict[str, float | None] = Field(default_factory=dict, description="keys: artifacts.measures.MEASURES")

    @property
    def failed_gates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(gate.name for look in self.looks for gate in look.failed_gates))


class Violation(Document):
    """Two levels that contradict a capacity: missed at the lower rate (or the same), met at the higher."""

    missed_rate_per_s: float
    met_rate_per_s: float


class VariantCapacity(Document):
    """The answer for one variant. Its true highest rate is in [`rate_per_s`, `missed_per_s`) if it is monotone.

    `above_per_s` is where the search turned back: the lowest rate not shown to be met, for which `limited_by` has the
    reason. Rates are null where there is none: no met, none above it, none surely missed.
    """

    model: str
    fingerprint: str | None
    rate_per_s: float | None
    above_per_s: float | None
    missed_per_s: float | None
    goodput_per_s: float | None = Field(description="at `rate_per_s`, in the confirmation if there was one")
    confirmed: bool = Field(description="met once more with fresh seeds")
    limited_by: LimitedBy
    limiting_gates: tuple[str, ...] = ()
    verdict: str = Field(description="the answer as a sentence")
    violations: tuple[Violation, ...] = ()
    levels: tuple[SearchedLevel, ...]


class CapacityRatio(Document):
    """Highest rate of `model` over that of `against`.

    `low` and `high` divide what one surely met by what the other surely missed: every ratio that the two brackets
    [`rate_per_s`, `missed_per_s`) allow. Null where a bracket is open.
    """

    model: str
    against: str
    value: float
    low: float | None
    high: float | None


class CapacitySearch(Document):
    """The content of `search.json`."""

    schema_version: Literal[1] = 1
    url: str
    slo: Slo
    workload: Workload
    policy: SearchPolicy
    arrivals: Spacing
    burstiness: float | None = None
    confidence: float = Field(description="of the Wilson intervals before they are split over a level's looks")
    look_s: float = Field(description="least seconds of a full look; low rates get longer ones")
    warmup_s: float
    timeout_s: float
    variants: tuple[VariantCapacity, ...]
    ratios: tuple[CapacityRatio, ...] = Field(description="each other variant against the first")
    provenance: Provenance
