"""`latency.json`: how long half layers of a model take on one engine, so that a budget can be in seconds.

The model is additive: a decode step costs `fixed_s` (embedding, head, the engine itself) plus a time per half layer
that depends on its kind and width alone. That is a few per cent short of the truth on an engine that overlaps work.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.provenance import Provenance

HalfUnit = Literal["kv", "ffn"]


class LatencyEntry(Document):
    """Seconds per decode step that one half layer of `count` units takes."""

    unit: HalfUnit
    count: int = Field(ge=0)
    seconds: float = Field(ge=0)


class LatencyTable(Document):
    """What was measured, where, and under which load. Entries come in any order, one per unit and count."""

    schema_version: Literal[1] = 1
    model: str
    engine: str
    hardware: str
    batch: int = Field(ge=1, description="sequences that decode together")
    context_tokens: int = Field(ge=0, description="tokens in front of each measured one")
    fixed_s: float = Field(ge=0)
    entries: tuple[LatencyEntry, ...]
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        places = [(entry.unit, entry.count) for entry in self.entries]
        if len(set(places)) < len(places):
            raise ValueError("an entry is given twice")
        return self

    def seconds(self, unit: HalfUnit, count: int) -> float:
        """Of one half layer: 0 if absent, interpolated between measured widths.

        Below the narrowest measured width a half is as slow as that one: what was not measured promises nothing.
        Raises ConfigError for a width above the widest.
        """
        if count == 0:
            return 0.0
        known = sorted((entry.count, entry.seconds) for entry in self.entries if entry.unit == unit and entry.count)
        if not known or known[-1][0] < count:
            widest = known[-1][0] if known else "none"
            raise ConfigError(
                f"the latency table for {self.model} has no entry for {count} units of {unit} (widest: {widest}). "
                "Measure it on the dense model's widths too."
            )
        place = bisect_left(known, (count, 0.0))
        above = known[place]
        if place == 0 or above[0] == count:
            return above[1]
        below = known[place - 1]
        share = (count - below[0]) / (above[0] - below[0])
        return below[1] + share * (above[1] - below[1])
