"""Which variant should be deployed, and why? Targets rule candidates out; what is left is ranked by what was not bound.

Who bounds the loss wants speed: of the allowed variants the fastest wins, and of those not shown to be slower the one
that loses least. Who bounds latency or rate alone wants quality: the least loss wins, and of those not shown to be
worse the fastest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.slo import Slo
from artifacts.units import format_count, format_seconds
from laws.studies.candidates import Candidate, Field, gather, is_accuracy, levels_of
from laws.studies.comparison import Analysis
from laws.studies.predictions import Prediction, predictions
from laws.studies.records import Study
from laws.studies.speeds import load_order, rate_of

_ALLOWANCE = re.compile(r"([\d.]+)\s*(%?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked for. `max_loss` is in nats per token or accuracy, or with `relative` a share of the dense value."""

    slo: Slo | None = None
    rate_per_s: float | None = None
    max_loss: float | None = None
    relative: bool = False
    on: str | None = None
    reference: str | None = None
    level: str | None = None


class Placed(Document):
    """A candidate with what the target says to it; `misses` is empty where it meets all of it."""

    candidate: Candidate
    on_front: bool
    misses: tuple[str, ...]


class Advice(Document):
    """The answer. `next_build` is the unbuilt variant with the most speed that a law expects within the target."""

    study: str
    reference: str
    level: str
    on: str
    unit: str
    max_rise: float | None
    candidates: tuple[Placed, ...]
    recommended: str | None
    reasons: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    next_build: Prediction | None
    left_out: dict[str, str]


def parse_allowance(text: str) -> tuple[float, bool]:
    """`0.1` (nats per token, or accuracy) or `5%` (of the dense value). Raises ConfigError for anything else."""
    found = _ALLOWANCE.fullmatch(text.strip())
    try:
        value = float(found[1]) if found else -1.0
    except ValueError:
        value = -1.0
    if found is None or value < 0:
        raise ConfigError(
            f"--max-loss {text!r} is no allowance. Write 0.1 for nats per token, or 5% of the dense loss."
        )
    return (value / 100, True) if found[2] else (value, False)


def advise(analysis: Analysis, target: Target) -> Advice:
    """Raises ConfigError for a target without a bound, or names and levels that the study does not have."""
    if target.slo is None and target.rate_per_s is None and target.max_loss is None:
        raise ConfigError("Nothing is asked for. Give --slo, --rate, --max-loss or several of them.")
    study = analysis.study
    field = gather(study, choose_level(study, target), target.on, target.reference)
    allowed = max_rise(target, field)
    placed = _placed(field, target, allowed)
    chosen = choose([row.candidate for row in placed if not row.misses], by_speed=allowed is not None)
    expected = tuple(predictions(analysis, field))
    unit = "accuracy" if is_accuracy(study, field.on) else "nats per token"
    return Advice(
        study=study.title,
        reference=field.reference,
        level=field.level,
        on=field.on,
        unit=unit,
        max_rise=allowed,
        candidates=placed,
        recommended=chosen.name if chosen else None,
        reasons=tuple(_reasons(placed, chosen, field, allowed, unit)),
        predictions=expected,
        next_build=_next(expected, allowed, chosen),
        left_out=field.left_out,
    )


def choose_level(study: Study, target: Target) -> str:
    """The level asked for; the lowest open-loop rate that is enough; else the highest load there is. Of loads only:
    forward passes count where nothing was served.

    Raises ConfigError if the study has no speeds, not that level, or only lower rates.
    """
    levels = sorted(levels_of(study), key=load_order)
    if not levels:
        raise ConfigError("The study has no speeds. Add `speeds` to its file and run it again.")
    if target.level is not None:
        if target.level not in levels:
            raise ConfigError(f"The study has no level {target.level!r}. It has {', '.join(levels)}.")
        return target.level
    served = {row.level for rows in study.speeds.values() for row in rows if row.mode == "serving"}
    levels = [level for level in levels if level in served] or levels
    rates = [level for level in levels if rate_of(level) is not None]
    if target.rate_per_s is None or not rates:
        return levels[-1]
    enough = [level for level in rates if (rate_of(level) or 0) >= target.rate_per_s]
    if not enough:
        raise ConfigError(f"The study's highest rate is {rates[-1]}. Ask for at most that, or measure higher ones.")
    return enough[0]


def max_rise(target: Target, field: Field) -> float | None:
    if target.max_loss is None:
        return None
    return target.max_loss * field.bases[field.reference] if target.relative else target.max_loss


def choose(allowed: Sequence[Candidate], *, by_speed: bool) -> Candidate | None:
    """The best on one axis, and among those not told from it the best on the other."""
    if not allowed:
        return None
    if by_speed:
        best = max(allowed, key=lambda c: c.speed)
        equal = [c for c in allowed if (c.speed_high or c.speed) >= (best.speed_low or best.speed)]
        return min(equal, key=lambda c: (c.rise, -c.speed))
    best = min(allowed, key=lambda c: c.rise)
    ceiling = best.rise if best.rise_high is None else best.rise_high
    equal = [c for c in allowed if (c.rise if c.rise_low is None else c.rise_low) <= ceiling]
    return max(equal, key=lambda c: (c.speed, -c.rise))


def front(candidates: Sequence[Candidate]) -> set[str]:
    """Names of those that nobody beats in speed and loss at once."""
    return {c.name for c in candidates if not any(_dominates(other, c) for other in candidates)}


def _dominates(one: Candidate, other: Candidate) -> bool:
    no_worse = one.speed >= other.speed and one.rise <= other.rise
    return no_worse and (one.speed > other.speed or one.rise < other.rise)


def _placed(field: Field, target: Target, allowed: float | None) -> tuple[Placed, ...]:
    ahead = front(field.candidates)
    rows = sorted(field.candidates, key=lambda c: (c.rise, -c.speed))
    return tuple(
        Placed(candidate=c, on_front=c.name in ahead, misses=tuple(_misses(c, field, target, allowed))) for c in rows
    )


def _misses(candidate: Candidate, field: Field, target: Target, allowed: float | None) -> Iterator[str]:
    if allowed is not None and candidate.rise > allowed:
        yield f"loses {candidate.rise:.3g}, allowed is {allowed:.3g}"
    for limit in target.slo.limits if target.slo else ():
        name = f"{limit.quantity}_p{limit.percentile:g}_s"
        measured = candidate.latencies_s.get(name)
        if measured is None:
            yield f"{name} was not measured at {field.level}"
        elif measured > limit.limit_s:
            yield f"{name} is {format_seconds(measured)}, allowed is {format_seconds(limit.limit_s)}"
    if target.rate_per_s is not None and rate_of(field.level) is None:
        served = candidate.requests_per_s
        if served is None or served < target.rate_per_s:
            told = "an unknown rate" if served is None else f"{served:.3g} requests/s"
            yield f"serves {told} at {field.level}, asked for are {target.rate_per_s:g}"


def _reasons(
    placed: Sequence[Placed], chosen: Candidate | None, field: Field, allowed: float | None, unit: str
) -> Iterator[str]:
    meeting = [row for row in placed if not row.misses]
    yield f"{len(meeting)} of {len(placed)} variants meet the target at {field.level}."
    if chosen is None:
        nearest = min(placed, key=lambda row: len(row.misses), default=None)
        if nearest is not None:
            yield f"Nearest is {nearest.candidate.name}: {'; '.join(nearest.misses)}."
        return
    lost = _within(chosen.rise, chosen.rise_low, chosen.rise_high, " ")
    yield (
        f"{chosen.name} is {_within(chosen.speed, chosen.speed_low, chosen.speed_high, '×')} as fast as "
        f"{field.reference} and loses {lost}{unit} on {field.on}."
    )
    if chosen.params is not None:
        yield f"It has {format_count(chosen.params)} parameters."
    if chosen.timed_as is not None:
        yield f"Its speed is that of {chosen.timed_as}, which has the same shapes."
    if allowed is not None and chosen.rise_high is not None and chosen.rise_high > allowed:
        yield "The interval of its loss reaches beyond what is allowed: more seeds or a longer text would tell."
    equal = [row.candidate for row in meeting if row.candidate.name != chosen.name and _overlap(row.candidate, chosen)]
    if equal:
        names = ", ".join(c.name for c in equal[:4]) + (" and others" if len(equal) > 4 else "")
        yield f"Not told from it in speed: {names}; it was taken for its lower loss or higher speed."
    if not next(row.on_front for row in placed if row.candidate.name == chosen.name):
        yield "It is not on the front: what beats it on both axes cannot be told from it on one, or misses the target."


def _overlap(one: Candidate, other: Candidate) -> bool:
    ends = [(c.speed if c.speed_low is None else c.speed_low, c.speed_high or c.speed) for c in (one, other)]
    return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def _within(value: float, low: float | None, high: float | None, unit: str) -> str:
    ends = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{unit.rstrip()}{ends}{' ' if unit == ' ' else ''}"


def _next(expected: Sequence[Prediction], allowed: float | None, chosen: Candidate | None) -> Prediction | None:
    """What a law expects within the allowance with all of its interval, and faster than what there is."""
    if allowed is None:
        return None
    fit = [p for p in expected if p.speed is not None and p.rise_high <= allowed]
    best = max(fit, key=lambda p: p.speed or 0.0, default=None)
    return best if best and (chosen is None or (best.speed or 0) > chosen.speed) else None
