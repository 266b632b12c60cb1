"""Which rate next? The search for the highest rate within an SLO, as pure functions of the levels tried so far.

It probes geometrically from the start rate until a met level lies below one that is not, halves that bracket on the
logarithm until its ends are close enough, and repeats the lower end with fresh seeds: of several levels near the limit
the luckiest looks best, and only a fresh sample says whether it was luck. With no state of its own, a search goes on
after a kill as it would have gone on without.

A rate is claimed only where meeting the SLO is shown: a level that stays undecided, or cannot be used because the load
client failed its gates, bounds the answer from above like a missed one, and the answer says which of these it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, log2, sqrt

from artifacts.capacity import LimitedBy, Purpose, SearchPolicy, Verdict, Violation

_UNUSABLE_LEVELS = 2  # in a search that has seen no usable one: then it is not the rate that is at fault
_ROUNDING = 1 + 1e-9
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A level and its present verdict. `wants_more`: another look may still decide it."""

    rate_per_s: float
    purpose: Purpose
    verdict: Verdict
    wants_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rate to play. `again`: another look at the last level, not a level of its own."""

    rate_per_s: float
    purpose: Purpose
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """`rate_per_s`: the highest rate shown to meet the SLO; `above_per_s`: the lowest above it that was not.

    `missed_per_s`: the lowest rate shown to miss it.
    """

    rate_per_s: float | None
    above_per_s: float | None
    missed_per_s: float | None
    confirmed: bool
    limited_by: LimitedBy
    violations: tuple[Violation, ...]


def next_step(policy: SearchPolicy, tried: Sequence[Tried]) -> Step | None:
    """What to play after these levels, in the order they were played; None when the search is over."""
    if tried and tried[-1].wants_more:
        return Step(rate_per_s=tried[-1].rate_per_s, purpose=tried[-1].purpose, again=True)
    if len(tried) >= policy.most_levels or _only_unusable(tried):
        return None
    low, high = bracket(tried)
    if _narrow(policy, low, high):
        return None if low is None or _confirmed(tried, low) else Step(rate_per_s=low, purpose="confirm")
    return _between(policy, low, high)


def bracket(tried: Sequence[Tried]) -> tuple[float | None, float | None]:
    """The lowest rate that was not met, and the highest met one below it."""
    high = min((t.rate_per_s for t in tried if t.verdict != "met"), default=None)
    met = [t.rate_per_s for t in tried if t.verdict == "met" and (high is None or t.rate_per_s < high)]
    return max(met, default=None), high


def conclude(policy: SearchPolicy, tried: Sequence[Tried]) -> Conclusion:
    """The answer that the levels so far allow."""
    low, high = bracket(tried)
    return Conclusion(
        rate_per_s=low,
        above_per_s=high,
        missed_per_s=min((t.rate_per_s for t in tried if t.verdict == "missed"), default=None),
        confirmed=low is not None and _confirmed(tried, low),
        limited_by=_limited_by(policy, tried, low, high),
        violations=violations(tried),
    )


def violations(tried: Sequence[Tried]) -> tuple[Violation, ...]:
    """Every pair of levels that no server with a single capacity can show."""
    missed = sorted({t.rate_per_s for t in tried if t.verdict == "missed"})
    met = sorted({t.rate_per_s for t in tried if t.verdict == "met"})
    return tuple(Violation(missed_rate_per_s=m, met_rate_per_s=r) for m in missed for r in met if m <= r)


def levels_left(policy: SearchPolicy, tried: Sequence[Tried]) -> int:
    """About how many levels are still to come, for a progress bar; at least 1."""
    low, high = bracket(tried)
    probes = 0 if low and high else 1 if tried else 2
    ratio = high / low if low and high else policy.growth
    halvings = ceil(log2(max(1.0, log(ratio) / log(policy.precision))) - 1e-9)
    return min(max(1, policy.most_levels - len(tried)), probes + halvings + 1)


def _only_unusable(tried: Sequence[Tried]) -> bool:
    return len(tried) >= _UNUSABLE_LEVELS and all(t.verdict == "unusable" for t in tried)


def _narrow(policy: SearchPolicy, low: float | None, high: float | None) -> bool:
    """Whether nothing is left to halve: close ends, or an end at the policy's."""
    if low is None:
        return high is not None and high <= policy.lowest_rate_per_s
    return low >= policy.highest_rate_per_s if high is None else high <= low * policy.precision * _ROUNDING


def _between(policy: SearchPolicy, low: float | None, high: float | None) -> Step:
    if low is not None and high is not None:
        return Step(rate_per_s=_rounded(sqrt(low * high)), purpose="bisect")
    if low is not None:
        return Step(rate_per_s=min(policy.highest_rate_per_s, _rounded(low * policy.growth)), purpose="probe")
    if high is not None:
        return Step(rate_per_s=max(policy.lowest_rate_per_s, _rounded(high / policy.growth)), purpose="probe")
    return Step(rate_per_s=policy.start_rate_per_s, purpose="probe")


def _rounded(rate_per_s: float) -> float:
    return float(f"{rate_per_s:.{_DIGITS}g}")


def _confirmed(tried: Sequence[Tried], rate_per_s: float) -> bool:
    return any(t.purpose == "confirm" and t.verdict == "met" and t.rate_per_s == rate_per_s for t in tried)


def _limited_by(policy: SearchPolicy, tried: Sequence[Tried], low: float | None, high: float | None) -> LimitedBy:
    if not tried or (not _narrow(policy, low, high) and not _only_unusable(tried)):
        return "levels"
    if high is None:
        return "highest rate"
    at_high = {t.verdict for t in tried if t.rate_per_s == high}
    if "missed" in at_high:
        return "lowest rate" if low is None else "server"
    return "client" if "unusable" in at_high else "undecided"
