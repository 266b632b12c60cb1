"""From records and windows to what `run.json` publishes: nothing here knows how they came about.

A reader of a run directory gets the same figures by calling the same functions on `requests.parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from artifacts.measures import summarise
from artifacts.run import ArmSummary, Comparison, RequestRecord, Window
from loadtest.pairing import block_speeds, compare


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
    )


def compare_arms(
    arms: tuple[str, ...], records: Sequence[RequestRecord], windows: Sequence[Window]
) -> tuple[Comparison, ...]:
    """Every other arm against the first."""
    per_arm = [
        [
            block_speeds([r for r in records if (r.arm, r.block) == (w.arm, w.block)], w)
            for w in sorted(windows, key=lambda w: w.block)
            if w.arm == arm
        ]
        for arm in range(len(arms))
    ]
    return tuple(compare((arms[arm], arms[0]), per_arm[arm], per_arm[0]) for arm in range(1, len(arms)))
