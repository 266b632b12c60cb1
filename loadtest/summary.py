"""From records and windows to what `run.json` publishes: nothing here knows how they came about.

A reader of a run directory gets the same figures by calling the same functions on `requests.parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from artifacts.energy import EnergyLog
from artifacts.measures import summarise, suppressed_percentiles
from artifacts.run import ArmSummary, Comparison, RequestRecord, Window
from loadtest.energy import tokens_per_joule
from loadtest.pairing import block_speeds, compare, suppressed_tails


def summarise_arms(
    arms: tuple[str, ...], records: Sequence[RequestRecord], windows: Sequence[Window], served: dict[str, Any]
) -> tuple[ArmSummary, ...]:
    """One summary per arm, in order. Counts are of requests that started in a window; failures too.

    A model's fingerprint is what its `/v1/models` entry states, or null.
    """
    return tuple(
        _summarise_arm(
            model,
            [r for r in records if r.arm == arm],
            [(w.start_s, w.end_s) for w in windows if w.arm == arm],
            served.get(model, {}).get("prunebench", {}).get("fingerprint"),
        )
        for arm, model in enumerate(arms)
    )


def _summarise_arm(
    model: str, records: Sequence[RequestRecord], spans: Sequence[tuple[float, float]], fingerprint: str | None
) -> ArmSummary:
    counted = [r for r in records if not r.warmup]
    kinds = Counter(kind for r in counted if (kind := r.failure_kind) is not None)
    return ArmSummary(
        model=model,
        fingerprint=fingerprint,
        requests=len(counted),
        failures=sum(not r.ok for r in counted),
        failures_by_kind=dict(sorted(kinds.items())),
        output_tokens=sum(r.output_tokens or 0 for r in counted if r.ok),
        measures=summarise(records, spans),
        suppressed=suppressed_percentiles(records),
    )


def compare_arms(
    arms: tuple[str, ...],
    records: Sequence[RequestRecord],
    windows: Sequence[Window],
    energy: EnergyLog | None = None,
) -> tuple[Comparison, ...]:
    """Every other arm against the first. A percentile is left out where a block of either does not certify it."""
    blocks = [
        [
            ([r for r in records if (r.arm, r.block) == (w.arm, w.block)], w)
            for w in sorted(windows, key=lambda w: w.block)
            if w.arm == arm
        ]
        for arm in range(len(arms))
    ]
    speeds = [
        [block_speeds(mine, window) | tokens_per_joule(energy, mine, window) for mine, window in of_arm]
        for of_arm in blocks
    ]
    return tuple(
        compare(
            (arms[arm], arms[0]),
            speeds[arm],
            speeds[0],
            suppressed_tails([mine for mine, _ in (*blocks[arm], *blocks[0])]),
        )
        for arm in range(1, len(arms))
    )
