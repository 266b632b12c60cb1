"""How late does the load test send, at 200 requests a second from one core?

    python benchmarks/send_lateness.py [--repeats 5] [--render-only]

Poisson arrivals at the token server of the client's benchmark: the whole Locust process has one core, the server the
other. A request is late by the time from its scheduled moment to the call that sends it. What comes back shares the
core with what is sent, so answers of several lengths are asked for.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.measures import percentile
from artifacts.provenance import collect_provenance
from benchmarks.client_cost import CLIENT_CORE, ITL_S, TTFT_S, played, token_server
from benchmarks.pages import draw_page, made_with, page_parser, write_raw

STEM = Path(__file__).with_name("send_lateness_cpu_202611")
RATE_PER_S, WINDOW_S = 200.0, 10.0
OUTPUT_TOKENS = (1, 16, 64)
TARGET_MS = 1.0


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.render_only:
        provenance = collect_provenance().model_dump(mode="json")  # of all cores, before the client keeps to one
        write_raw(STEM, {"rows": measure(options.repeats), "provenance": provenance})
    draw_page(STEM, render)


def measure(repeats: int) -> list[dict[str, Any]]:
    os.sched_setaffinity(0, {CLIENT_CORE})
    rows = []
    with token_server():
        for repeat in range(repeats):
            for tokens in OUTPUT_TOKENS:
                rows.append({"repeat": repeat, "output_tokens": tokens, **lateness(tokens)})
                sys.stderr.write(json.dumps(rows[-1]) + "\n")
    return rows


def lateness(output_tokens: int) -> dict[str, Any]:
    """Percentiles in ms over one window, and what the client's core did meanwhile."""
    level = {"arrivals": {"kind": "poisson", "rate_per_s": RATE_PER_S}}
    records, outcome = played(level, output_tokens, WINDOW_S)
    counted = [r for r in records if not r.warmup]
    late_s = [r.sent_s - r.scheduled_s for r in counted if r.sent_s is not None]
    found = {f"p{p}_ms": 1e3 * (percentile(late_s, p) or float("nan")) for p in (50, 99)}
    return {
        "requests": len(counted),
        "failures": sum(not r.ok for r in counted),
        **found,
        "max_ms": 1e3 * max(late_s),
        "client_cpu_share": outcome.client_cpu_s / WINDOW_S,
    }


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    rows = {tokens: [r for r in raw["rows"] if r["output_tokens"] == tokens] for tokens in OUTPUT_TOKENS}
    worst = max(float(np.median([r["p99_ms"] for r in chosen])) for chosen in rows.values())
    repeats = 1 + max(r["repeat"] for r in raw["rows"])
    lines = [
        "# Send lateness",
        "",
        f"*Question: are requests sent on time at {RATE_PER_S:g} a second from one core, p99 within {TARGET_MS:g} ms?* "
        f"**{'Yes' if worst <= TARGET_MS else 'No'}**: {worst:.2f} ms at most (median of {repeats} repetitions).",
        "",
        "| output tokens | requests | failed | p50, ms | p99, ms | latest, ms | client's share of its core |",
        "| ---: | ---: | ---: | --- | --- | --- | ---: |",
    ]
    lines += [row(tokens, chosen) for tokens, chosen in rows.items()]
    lines += [
        "",
        f"Poisson arrivals, windows of {WINDOW_S:g} s; first token after {1e3 * TTFT_S:g} ms, then one every "
        f"{1e3 * ITL_S:g} ms; medians over repetitions with their range.",
        "",
        f"Made with {made_with(raw['provenance'], ('locust', 'gevent'))}.",
    ]
    return "\n".join(lines) + "\n"


def row(tokens: int, rows: Sequence[dict[str, Any]]) -> str:
    cells = [spread([r[key] for r in rows]) for key in ("p50_ms", "p99_ms", "max_ms")]
    counts = [sum(r[key] for r in rows) for key in ("requests", "failures")]
    share = float(np.median([r["client_cpu_share"] for r in rows]))
    return f"| {tokens} | {counts[0]} | {counts[1]} | {' | '.join(cells)} | {share:.0%} |"


def spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
