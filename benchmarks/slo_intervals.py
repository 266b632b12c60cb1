"""How often is a rate called met that is not? Wilson's interval, plain and at the effective sample size, on a queue.

M/D/4 with a service time of 96 ms: Poisson arrivals, four streams, first come first served. The SLO is 90 % of first
tokens within 150 ms. A long simulation gives the rate at which exactly that share is in time; windows of several
lengths at shares of that rate are then judged 400 times each. A verdict of "met" at or above the exact rate is an
error, as is "missed" below it. Everything follows from fixed seeds.

`python -m benchmarks.slo_intervals` computes and draws the page, `--render-only` draws it again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.arrivals import Poisson
from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from loadtest.arrivals import arrival_times_s
from loadtest.attainment import effective_count, quantile_of, wilson

STEM = Path(__file__).with_name("slo_intervals_cpu_202611")
STREAMS, TTFT_S, SERVICE_S = 4, 0.020, 0.096
LIMIT_S, REQUIRED = 0.150, 0.90
LEAD_IN_S, LOOKS, REPEATS = 2.0, 4, 400
WINDOWS_S = (10.0, 30.0, 100.0)
OF_EXACT = (0.8, 0.9, 1.0, 1.1)
_LONG_RUN = 200_000


def waits_s(arrivals_s: Sequence[float], streams: int, service_s: float) -> list[float]:
    """How long each request waits for one of the streams."""
    free_s, waits = [0.0] * streams, []
    for arrival_s in arrivals_s:
        start_s = max(arrival_s, heapq.heappop(free_s))
        heapq.heappush(free_s, start_s + service_s)
        waits.append(start_s - arrival_s)
    return waits


def exact_rate_per_s() -> float:
    """Where the share within the limit is the required one, to 0.02 requests/s."""
    low, high = 1.0, STREAMS / SERVICE_S
    while high - low > 0.02:
        middle = (low + high) / 2
        arrivals = arrival_times_s(Poisson(rate_per_s=middle), _LONG_RUN / middle, (99,))
        share = np.mean(np.asarray(waits_s(arrivals, STREAMS, SERVICE_S)[_LONG_RUN // 10 :]) + TTFT_S <= LIMIT_S)
        low, high = (middle, high) if share > REQUIRED else (low, middle)
    return low


def verdicts(rate_per_s: float, window_s: float, repeats: int) -> dict[str, dict[str, float]]:
    """Shares of windows called met and missed, for either sample size."""
    counts = {"plain": [0, 0], "effective": [0, 0]}
    z = quantile_of(LOOKS)
    for seed in range(repeats):
        arrivals = arrival_times_s(Poisson(rate_per_s=rate_per_s), LEAD_IN_S + window_s, (seed, 5))
        waits = np.asarray(waits_s(arrivals, STREAMS, SERVICE_S))[np.asarray(arrivals) >= LEAD_IN_S]
        latencies_s = (waits + TTFT_S).tolist()
        share = float(np.mean(np.asarray(latencies_s) <= LIMIT_S))
        sizes = {"plain": float(len(latencies_s)), "effective": effective_count(latencies_s, LIMIT_S)}
        for name, size in sizes.items():
            low, high = wilson(share, size, z)
            counts[name][0] += low >= REQUIRED
            counts[name][1] += high < REQUIRED
    return {name: {"met": met / repeats, "missed": missed / repeats} for name, (met, missed) in counts.items()}


def measure() -> dict[str, Any]:
    exact = exact_rate_per_s()
    rows = [
        {"of_exact_rate": share, "window_s": window_s, **verdicts(share * exact, window_s, REPEATS)}
        for share in OF_EXACT
        for window_s in WINDOWS_S
    ]
    return {
        "exact_rate_per_s": exact,
        "capacity_per_s": STREAMS / SERVICE_S,
        "repeats": REPEATS,
        "tail_per_look": 0.05 / 2 / LOOKS,
        "rows": rows,
        "provenance": collect_provenance().model_dump(),
    }


def render(raw: dict[str, Any]) -> str:
    lines = [
        "# How often a rate is called met that is not",
        "",
        f"A queue with four streams of 96 ms (capacity {raw['capacity_per_s']:.1f} requests/s); 90 % must have their "
        f"first token within 150 ms, which is exactly so at {raw['exact_rate_per_s']:.2f} requests/s. Share of "
        f"{raw['repeats']} windows called met or missed by Wilson's interval, over all requests (plain) and at the "
        "effective sample size. "
        f"An interval that holds what it says errs in {raw['tail_per_look']:.2%} of the windows at the exact rate, on "
        "either side.",
        "",
        "| share of the exact rate | window | met, plain | met, effective | missed, plain | missed, effective |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in raw["rows"]:
        cells = [f"{row[size][verdict]:.1%}" for verdict in ("met", "missed") for size in ("plain", "effective")]
        lines.append(f"| {row['of_exact_rate']:.1f} | {row['window_s']:.0f} s | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Simulated on {made_with(raw['provenance'], ())}.", ""])


def main() -> None:
    if not page_parser(__doc__).parse_args().render_only:
        write_raw(STEM, measure())
    draw_page(STEM, render)


if __name__ == "__main__":
    main()
