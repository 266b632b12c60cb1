"""Every reported quantity: its name, unit, direction, definition, and the pure function that computes it.

All come from request records, so any published figure can be recomputed from `requests.parquet`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from artifacts.run import RequestRecord, Suppressed

Better = Literal["lower", "higher"]

# The sample sizes that certify a percentile at 99 % confidence (MLPerf's early-stopping rule).
CERTIFYING_SAMPLES = {50: 11, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True, slots=True)
class Measure:
    """`per_request` yields zero or more values per request; `percentile` reduces them (None: see `total`)."""

    name: str
    unit: str
    better: Better
    definition: str
    per_request: Callable[[RequestRecord], Sequence[float]]
    percentile: int


def ttft_s(record: RequestRecord) -> Sequence[float]:
    return () if record.first_s is None else (record.first_s - record.scheduled_s,)


def tpot_s(record: RequestRecord) -> Sequence[float]:
    if record.first_s is None or record.last_s is None or not record.output_tokens or record.output_tokens < 2:
        return ()
    return ((record.last_s - record.first_s) / (record.output_tokens - 1),)


def inter_token_latencies_s(record: RequestRecord) -> Sequence[float]:
    return tuple(b - a for a, b in zip(record.event_s, record.event_s[1:], strict=False))


def e2e_s(record: RequestRecord) -> Sequence[float]:
    return () if record.last_s is None else (record.last_s - record.scheduled_s,)


QUANTITIES: tuple[tuple[str, str, Callable[[RequestRecord], Sequence[float]]], ...] = (
    ("ttft", "time to first token: first output event minus the scheduled send time", ttft_s),
    ("tpot", "time per output token after the first: (last - first event) / (output tokens - 1)", tpot_s),
    ("itl", "inter-token latency: gap between consecutive output events, pooled", inter_token_latencies_s),
    ("e2e", "last output event minus the scheduled send time", e2e_s),
)

PER_REQUEST: dict[str, Callable[[RequestRecord], Sequence[float]]] = {name: each for name, _, each in QUANTITIES}
"""The functions of QUANTITIES by name; each gives zero or more values per request, in seconds."""

PERCENTILE_MEASURES: dict[str, Measure] = {
    f"{name}_p{p}_s": Measure(f"{name}_p{p}_s", "s", "lower", f"p{p} of {text}", function, p)
    for name, text, function in QUANTITIES
    for p in CERTIFYING_SAMPLES
}

# Totals over the measured windows; `totals_in_windows` computes them.
TOTAL_MEASURES: dict[str, tuple[str, Better, str]] = {
    "output_tokens_per_s": (
        "tokens/s",
        "higher",
        "output tokens whose events fall into the measured windows / their seconds",
    ),
    "requests_per_s": ("1/s", "higher", "successful requests that end in the measured windows / their seconds"),
}

MEASURES: tuple[str, ...] = (*PERCENTILE_MEASURES, *TOTAL_MEASURES)


def percentile(values: Sequence[float], p: int) -> float | None:
    """The p-th percentile, or None below the sample size that certifies it."""
    if len(values) < CERTIFYING_SAMPLES[p]:
        return None
    return float(np.percentile(np.asarray(values), p))


def summarise(records: Sequence[RequestRecord], windows: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """All measures. Keys: MEASURES.

    Percentiles are over the successful requests that are no warm-up, totals over the [start_s, end_s) windows.
    """
    counted = [r for r in records if r.ok and not r.warmup]
    summary: dict[str, float | None] = {}
    for name, measure in PERCENTILE_MEASURES.items():
        summary[name] = percentile([v for r in counted for v in measure.per_request(r)], measure.percentile)
    return summary | totals_in_windows(records, windows)


def suppressed_percentiles(records: Sequence[RequestRecord]) -> tuple[Suppressed, ...]:
    """Which of PERCENTILE_MEASURES `summarise` leaves out for want of values, and by how many."""
    counted = [r for r in records if r.ok and not r.warmup]
    samples = {name: sum(len(of(r)) for r in counted) for name, _, of in QUANTITIES}
    return tuple(
        Suppressed(measure=f"{name}_p{p}_s", samples=count, needed=needed)
        for name, count in samples.items()
        for p, needed in CERTIFYING_SAMPLES.items()
        if count < needed
    )


def tokens_between(record: RequestRecord, start_s: float, end_s: float) -> float:
    """Output tokens of a successful request that came in [start_s, end_s); an event counts its equal share of them."""
    if not record.ok or not record.output_tokens or not record.event_s:
        return 0.0
    inside = bisect_left(record.event_s, end_s) - bisect_left(record.event_s, start_s)
    return record.output_tokens * inside / len(record.event_s)


def totals_in_windows(
    records: Sequence[RequestRecord], windows: Sequence[tuple[float, float]]
) -> dict[str, float | None]:
    """Throughputs over [start_s, end_s) windows. Keys: TOTAL_MEASURES; None where no time was measured.

    Counts by the time of the output, whichever side of the window the request began on, so that a window which is
    short against a request is not biased. `records` includes the lead-in's.
    """
    measured_s = sum(end - start for start, end in windows)
    if measured_s <= 0:
        return dict.fromkeys(TOTAL_MEASURES)
    tokens = sum(tokens_between(r, start, end) for start, end in windows for r in records)
    ends = [r.last_s for r in records if r.ok and r.last_s is not None]
    ended = sum(start <= last < end for start, end in windows for last in ends)
    return {"output_tokens_per_s": tokens / measured_s, "requests_per_s": ended / measured_s}
