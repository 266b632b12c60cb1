"""One look at one rate: an ordinary run of one model, judged against the SLO, and the looks of a level taken together.

A short window hides an overload: where 5 % too much is offered, the queue of a 2 s window ends 0.1 s long, and every
request was in time. So only looks of full length can show that an SLO is met. A pilot, a quarter as long, comes before
the first full look of a probed rate: what a short run misses a long one misses too, and far beyond the capacity it
saves three quarters of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.capacity import Attainment, Look, Purpose, SearchedLevel, SearchPolicy, Verdict
from artifacts.measures import TOTAL_MEASURES, summarise
from artifacts.run import Gate, RequestRecord, RunManifest, Window
from artifacts.slo import Slo
from artifacts.unfinished import key_of
from loadtest.attainment import attainment, goodput_per_s, quantile_of, requests_to_show, verdict_on

PILOT_SHARE = 0.25
OUTCOMES = frozenset(
    {"error share", "preemptions", "requests per arm", "requests per block", "window drift", "Little's law"}
)
"""Gates that an overloaded server fails by itself: here they are what is measured, and the SLO judges them. Any other
failed gate speaks of the load client or of the work that was asked for, and makes a look unusable."""

_SPARE_REQUESTS = 1.5  # a full look should be able to show a met SLO although some requests were late
_UNUSABLE_LOOKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A look with what it recorded."""

    look: Look
    records: Sequence[RequestRecord]
    windows: tuple[Window, ...]
    measures: dict[str, float | None]


def least_look_s(slo: Slo, precision: float) -> float:
    """Seconds in which an overload by `precision` shows: requests in the window's second half wait past every limit.

    At a rate of `precision` times the capacity the wait grows by (1 - 1 / precision) seconds per second.
    """
    longest_s = max(limit.limit_s for limit in slo.limits)
    return 2 * longest_s / (1 - 1 / precision)


def decision_quantile(policy: SearchPolicy) -> float:
    """A level is judged after its pilot and after each of its full looks."""
    return quantile_of(policy.most_looks + 1)


def full_look_s(slo: Slo, policy: SearchPolicy, look_s: float, rate_per_s: float) -> float:
    """Long enough for the requests that the strictest percentile needs at this rate."""
    strictest = max(limit.required_share for limit in slo.limits)
    requests = _SPARE_REQUESTS * requests_to_show(strictest, decision_quantile(policy))
    return max(look_s, requests / rate_per_s)


def look_seed(seed: int, purpose: Purpose, rate_per_s: float, number: int) -> int:
    """Equal for every variant, so that all get the same arrivals and prompts at a rate; new for every look."""
    return int(key_of([seed, purpose, rate_per_s, number]), 16) % 2**31


def unusable_because(manifest: RunManifest) -> tuple[Gate, ...]:
    return tuple(gate for gate in manifest.gates if not gate.passed and gate.name not in OUTCOMES)


def searched_level(
    slo: Slo, policy: SearchPolicy, rate_per_s: float, purpose: Purpose, looks: Sequence[Played]
) -> SearchedLevel:
    """The level as its looks so far show it."""
    pilots = [p for p in looks if p.look.pilot and not p.look.failed_gates]
    full = [p for p in looks if not p.look.pilot and not p.look.failed_gates]
    z = decision_quantile(policy)
    early, late = (_attainments(slo, some, z) for some in (pilots, full))
    counted = full or pilots
    records = [r for p in counted for r in p.records if not r.warmup]
    return SearchedLevel(
        rate_per_s=rate_per_s,
        purpose=purpose,
        verdict=_verdict(early, late, sum(bool(p.look.failed_gates) for p in looks)),
        looks=tuple(p.look for p in looks),
        attainments=late or early,
        requests=len(records),
        failures=sum(not r.ok for r in records),
        goodput_per_s=goodput_per_s(slo, records, [w for p in counted for w in p.windows]),
        measures=summarise(records, ()) | _mean_totals(counted),
    )


def wants_more(policy: SearchPolicy, level: SearchedLevel) -> bool:
    """Whether another look may decide the level."""
    full = sum(not look.pilot and not look.failed_gates for look in level.looks)
    return level.verdict == "undecided" and full < policy.most_looks


def _attainments(slo: Slo, looks: Sequence[Played], z: float) -> tuple[Attainment, ...]:
    return tuple(attainment(limit, [p.records for p in looks], z) for limit in slo.limits) if looks else ()


def _verdict(early: Sequence[Attainment], late: Sequence[Attainment], unusable: int) -> Verdict:
    if early and verdict_on(early) == "missed":
        return "missed"
    if late and (decided := verdict_on(late)) != "undecided":
        return decided
    return "unusable" if unusable >= _UNUSABLE_LOOKS else "undecided"


def _mean_totals(looks: Sequence[Played]) -> dict[str, float | None]:
    """Throughputs, averaged over looks of equal length, each on a clock of its own."""
    values = {name: [v for p in looks if (v := p.measures.get(name)) is not None] for name in TOTAL_MEASURES}
    return {name: float(np.mean(of_looks)) if of_looks else None for name, of_looks in values.items()}
