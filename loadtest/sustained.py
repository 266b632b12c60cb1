"""What does a finished search say? Each variant's answer as numbers and a sentence, and the variants' ratio."""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.capacity import CapacityRatio, SearchedLevel, SearchPolicy, VariantCapacity
from artifacts.slo import Slo
from loadtest.search import Conclusion, Tried, conclude


def capacity_of(
    model: str,
    fingerprint: str | None,
    slo: Slo,
    policy: SearchPolicy,
    tried: Sequence[Tried],
    levels: tuple[SearchedLevel, ...],
) -> VariantCapacity:
    """The answer that `tried` allows; `levels` are what they stand for."""
    answer = conclude(policy, tried)
    at_rate = [x for x in levels if x.rate_per_s == answer.rate_per_s and x.verdict == "met"]
    unusable = [x for x in levels if x.verdict == "unusable"]
    gates = tuple(dict.fromkeys(name for x in unusable for name in x.failed_gates))
    return VariantCapacity(
        model=model,
        fingerprint=fingerprint,
        rate_per_s=answer.rate_per_s,
        above_per_s=answer.above_per_s,
        missed_per_s=answer.missed_per_s,
        goodput_per_s=at_rate[-1].goodput_per_s if at_rate else None,
        confirmed=answer.confirmed,
        limited_by=answer.limited_by,
        limiting_gates=gates if answer.limited_by == "client" else (),
        verdict=f"{model} {_found(answer, slo)}{_limit(answer, gates)}",
        violations=answer.violations,
        levels=levels,
    )


def ratios_of(variants: Sequence[VariantCapacity]) -> tuple[CapacityRatio, ...]:
    """Each other variant's highest rate over the first's, where both have one."""
    first, *others = variants
    return tuple(r for other in others if (r := _ratio(other, first)) is not None)


def _ratio(variant: VariantCapacity, against: VariantCapacity) -> CapacityRatio | None:
    if variant.rate_per_s is None or against.rate_per_s is None:
        return None
    return CapacityRatio(
        model=variant.model,
        against=against.model,
        value=variant.rate_per_s / against.rate_per_s,
        low=None if against.missed_per_s is None else variant.rate_per_s / against.missed_per_s,
        high=None if variant.missed_per_s is None else variant.missed_per_s / against.rate_per_s,
    )


def _found(answer: Conclusion, slo: Slo) -> str:
    if answer.rate_per_s is None:
        return f"was not shown to meet {slo.text} at any rate"
    shown = "" if answer.confirmed else " (not confirmed)"
    return f"sustains {answer.rate_per_s:g} requests/s within {slo.text}{shown}"


def _limit(answer: Conclusion, gates: Sequence[str]) -> str:
    above = "" if answer.above_per_s is None else f" at {answer.above_per_s:g}"
    return {
        "server": f"; it missed it{above}.",
        "undecided": f";{above} stayed undecided.",
        "client": f"; the load test itself failed{above} ({', '.join(gates)}), so the server may do more.",
        "highest rate": ", the highest rate allowed, so it may do more.",
        "lowest rate": f"; it missed it even{above}, the lowest rate allowed.",
        "levels": "; the search ended at its greatest number of levels.",
    }[answer.limited_by]
