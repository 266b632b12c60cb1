"""Do the panels' p99 agree with the load test's? Histograms know a value to a bucket, records know it exactly.

The engine's buckets are read at both ends of the clean load test, so that their difference holds exactly its requests;
their p99 is then interpolated as Prometheus does. Beside it stands the p99 of the client's raw records, warm-up
included, because the engine counted that as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np

from artifacts.measures import tpot_s, ttft_s
from artifacts.run import RequestRecord
from benchmarks.dashboard_answers import ask
from dashboards.metrics import TPOT, TTFT

Q = 0.99
MEASURES = (("TTFT", TTFT.name, ttft_s), ("TPOT", TPOT.name, tpot_s))


def agreement(url: str, records: list[RequestRecord], start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Per measure and variant: both p99, the bucket that holds the raw one, the requests on both sides."""
    found = []
    for label, name, measure in MEASURES:
        for variant in dict.fromkeys(record.model for record in records):
            raw_s = [value for r in records if r.model == variant and r.ok for value in measure(r)]
            counts = increases(buckets(url, name, variant, start_s), buckets(url, name, variant, end_s))
            found.append({"measure": label, "variant": variant, **compared(raw_s, counts)})
    return found


def buckets(url: str, name: str, variant: str, at_s: float) -> dict[float, float]:
    """Cumulative counts by upper bound, in seconds."""
    result = ask(url, "query", query=f'sum by (le) ({name}_bucket{{variant="{variant}"}})', time=at_s)
    return {float(one["metric"]["le"]): float(one["value"][1]) for one in result}


def increases(before: Mapping[float, float], after: Mapping[float, float]) -> dict[float, float]:
    return {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}


def compared(raw_s: list[float], counts: Mapping[float, float]) -> dict[str, Any]:
    exact_s = float(np.percentile(raw_s, Q * 100))
    seen_s = interpolated(Q, counts)
    low_s, high_s = bucket_of(exact_s, list(counts))
    return {
        "raw_p99_s": exact_s,
        "histogram_p99_s": seen_s,
        "bucket_s": [low_s, high_s],
        "requests": len(raw_s),
        "observations": round(counts[math.inf]),
        "agrees": abs(seen_s - exact_s) <= high_s - low_s,
    }


def interpolated(q: float, counts: Mapping[float, float]) -> float:
    """`histogram_quantile`: linear within the bucket, the last finite bound above it."""
    bounds = sorted(counts)
    rank = q * counts[bounds[-1]]
    place = next(i for i, bound in enumerate(bounds) if counts[bound] >= rank)
    if math.isinf(bounds[place]):
        return bounds[place - 1]
    low, below = (bounds[place - 1], counts[bounds[place - 1]]) if place else (0.0, 0.0)
    return low + (bounds[place] - low) * (rank - below) / (counts[bounds[place]] - below)


def bucket_of(value_s: float, bounds: list[float]) -> tuple[float, float]:
    finite = sorted(bound for bound in bounds if math.isfinite(bound))
    place = min(bisect_left(finite, value_s), len(finite) - 1)
    return (finite[place - 1] if place else 0.0), finite[place]
