"""What is sent to which model in which order: everything about a run that can be decided before it starts.

The plan is a file: the runner writes it, the Locust process plays it, and it is kept with the results. Arms are
interleaved in mirrored order (ABBA; for more arms ABCD DCBA ...), so that a machine which slowly warms up or is slowly
loaded by others touches all arms alike.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.run import Level, Window, Workload


class Segment(Document):
    """One arm in one block: a lead-in that is not counted, then the measured window."""

    arm: int
    block: int


class Plan(Document):
    """The whole run. `arms` are model names; the reference, if there is one, comes first."""

    schema_version: Literal[1] = 1
    url: str
    arms: tuple[str, ...] = Field(min_length=1)
    level: Level
    workload: Workload
    blocks: int = Field(gt=0)
    window_s: float = Field(gt=0, description="measured seconds of one arm in one block")
    lead_in_s: float = Field(ge=0, description="seconds of load before each window")
    timeout_s: float = Field(gt=0, description="a request that takes longer fails")
    token_range: tuple[int, int] = Field(
        default=(3, 500),
        description="prompt ids are drawn from [low, high): above the usual special ids, inside the smallest "
        "vocabularies, and wide enough that no two prompts are equal",
    )
    nonce: int = Field(ge=0, description="drawn per run: makes its prompts new to every prefix cache")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.level.concurrency is None) == (self.level.rate_per_s is None):
            raise ValueError("give either a concurrency or a rate, not both and not neither")
        if self.level.rate_per_s is not None and self.level.arrivals is None:
            raise ValueError("a rate needs arrivals: constant or poisson")
        if not 0 <= self.token_range[0] < self.token_range[1]:
            raise ValueError("token_range must be [low, high) with 0 <= low < high")
        return self

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(
            Segment(arm=arm, block=block)
            for block in range(self.blocks)
            for arm in (range(len(self.arms)) if block % 2 == 0 else reversed(range(len(self.arms))))
        )

    @property
    def planned_s(self) -> float:
        """Load time of all segments, the drains between them apart."""
        return len(self.arms) * self.blocks * (self.lead_in_s + self.window_s)


class Outcome(Document):
    """What the player hands back beside the records."""

    windows: tuple[Window, ...]
    client_cpu_s: float = Field(description="processor time of the client inside the windows")
    served_first: bool = Field(description="whether the client ran in the scheduler's real-time class")
    loop_lags_s: tuple[float, ...] = Field(default=(), description="how late the client's event loop woke, sampled")
