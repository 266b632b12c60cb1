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


class DecodeShape(Document):
    """Widths of all half layers of one engine's model, layer by layer; 0 is an absent half."""

    kv_groups: tuple[int, ...]
    ffn_channels: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.kv_groups)


class ShapeTiming(Document):
    """What one engine took. `steps_s` holds the median decode step of each repeat."""

    shape: DecodeShape
    steps_s: tuple[float, ...] = Field(min_length=1)

    @property
    def seconds(self) -> float:
        """The least disturbed repeat: what else runs on a machine only ever adds time."""
        return min(self.steps_s)

    @property
    def spread(self) -> float:
        """Largest less smallest repeat, as a share of the smallest."""
        return (max(self.steps_s) - min(self.steps_s)) / self.seconds


class LatencyEntry(Document):
    """Seconds per decode step that one half layer of `count` units takes."""

    unit: HalfUnit
    count: int = Field(ge=0)
    seconds: float = Field(ge=0)
    unpooled_s: float | None = Field(default=None, description="before entries were made monotone; may be negative")


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
    measured: tuple[ShapeTiming, ...] = Field(default=(), description="what the entries were solved from, in order")
    checks: tuple[ShapeTiming, ...] = Field(default=(), description="uneven shapes that the entries do not know")

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

    def step_s(self, shape: DecodeShape) -> float:
        """What the additive model says of a whole engine. Raises ConfigError as `seconds` does."""
        attention = sum(self.seconds("kv", count) for count in shape.kv_groups)
        return self.fixed_s + attention + sum(self.seconds("ffn", count) for count in shape.ffn_channels)

    @property
    def drift(self) -> float | None:
        """By which share the first shape had become slower when it was measured again at the end."""
        if len(self.measured) < 2 or self.measured[0].shape != self.measured[-1].shape:
            return None
        return self.measured[-1].seconds / self.measured[0].seconds - 1

    @property
    def pooled_s(self) -> float:
        """The farthest that an entry was moved to make the entries monotone and not negative."""
        moves = [abs(entry.seconds - entry.unpooled_s) for entry in self.entries if entry.unpooled_s is not None]
        return max(moves, default=0.0)

    @property
    def errors(self) -> tuple[float, ...]:
        """Of the predicted steps of the checked shapes, as shares of the measured ones."""
        return tuple(self.step_s(check.shape) / check.seconds - 1 for check in self.checks)
