"""What is a claim, and when does it hold? It names numbers and the ranges they must lie in; nothing else decides.

A number with an interval must lie in its range with all of the interval. So a study that is too small supports
nothing, and says that by how sure the verdict is: `refuted` and `open` are both not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Literal

from artifacts.document import Document
from artifacts.study import CellRecord
from laws.studies.comparison import Analysis
from laws.studies.records import measured_on

Word = Literal["supported", "not supported", "not testable here"]
Certainty = Literal["clear", "refuted", "open", "no interval", "none"]
Mode = Literal["paper", "serving"]
Ends = tuple[float | None, float | None]
NO_ENDS: Ends = (None, None)


class Number(Document):
    """A measured value with its 95 % interval, where there is one; `n` counts what it was computed from."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int

    @classmethod
    def within(cls, name: str, value: float, n: int, ends: Ends) -> Number:
        return cls(name=name, value=value, low=ends[0], high=ends[1], n=n)


@dataclass(frozen=True, slots=True)
class Range:
    """Which values of the number `name` a claim allows."""

    name: str
    low: float = -inf
    high: float = inf

    @property
    def text(self) -> str:
        if self.low == -inf:
            return f"{self.name} at most {self.high:g}"
        if self.high == inf:
            return f"{self.name} above {self.low:g}"
        return f"{self.name} within {self.low:g} and {self.high:g}"

    def holds(self, number: Number) -> bool:
        return self.low <= number.value <= self.high

    def certainty(self, number: Number) -> Certainty:
        if number.low is None or number.high is None:
            return "no interval"
        if self.low <= number.low and number.high <= self.high:
            return "clear"
        return "refuted" if number.high < self.low or number.low > self.high else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a study has to say to a claim in one scope. `untestable` says which condition of the claim it misses."""

    scope: str
    conditions: str
    numbers: tuple[Number, ...] = ()
    cells: tuple[CellRecord, ...] = ()
    mode: Mode | None = None
    untestable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`paper` is the version of arXiv 2504.04342 that states it; thresholds marked `ours` it does not give."""

    id: str
    statement: str
    metric: str
    conditions: str
    paper: Literal["v1", "v2"]
    ranges: tuple[Range, ...]
    ours: bool
    measure: Callable[[Analysis], Iterable[Measurement]]
    needs: str


class Verdict(Document):
    """A claim's verdict in one scope and mode."""

    claim: str
    verdict: Word
    certainty: Certainty
    scope: str
    mode: Mode | None
    numbers: tuple[Number, ...]
    threshold: str
    conditions: str
    reason: str
    cells: tuple[str, ...]
    measured_on: str


def judge(claim: Claim, analysis: Analysis) -> tuple[Verdict, ...]:
    """At least one verdict: where the study has nothing to say, that the claim cannot be tested here."""
    found = tuple(_verdict(claim, measured) for measured in claim.measure(analysis))
    return found or (_verdict(claim, Measurement(scope="", conditions="", untestable=claim.needs)),)


def _verdict(claim: Claim, measured: Measurement) -> Verdict:
    word, certainty, reason = _word(claim, measured)
    return Verdict(
        claim=claim.id,
        verdict=word,
        certainty=certainty,
        scope=measured.scope,
        mode=measured.mode,
        numbers=measured.numbers,
        threshold="; ".join(bounds.text for bounds in claim.ranges),
        conditions=measured.conditions,
        reason=reason,
        cells=tuple(cell.cell for cell in measured.cells),
        measured_on=measured_on(measured.cells) if measured.cells else "",
    )


def _word(claim: Claim, measured: Measurement) -> tuple[Word, Certainty, str]:
    if measured.untestable is not None:
        return "not testable here", "none", measured.untestable
    numbers = {number.name: number for number in measured.numbers}
    missing = [bounds.name for bounds in claim.ranges if bounds.name not in numbers]
    if missing:
        return "not testable here", "none", f"No value of {missing[0]}: {claim.needs}"
    judged = [(bounds, numbers[bounds.name]) for bounds in claim.ranges]
    outside = [b.name for b, number in judged if b.certainty(number) == "refuted" or _without(b, number)]
    if outside:
        return "not supported", "refuted", f"{' and '.join(outside)} outside the range."
    undecided = [b.name for b, number in judged if b.certainty(number) == "open"]
    if undecided:
        return "not supported", "open", f"The interval of {' and '.join(undecided)} reaches beyond the range."
    if any(b.certainty(number) == "no interval" for b, number in judged):
        return "supported", "no interval", "In range, but too few repeats for an interval."
    return "supported", "clear", "In range with all of the interval."


def _without(bounds: Range, number: Number) -> bool:
    """Out of range, with no interval that could say otherwise."""
    return bounds.certainty(number) == "no interval" and not bounds.holds(number)
