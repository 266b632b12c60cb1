"""What does reading a token cost a load client, and how far are the times it reports from what the server wrote?

    python benchmarks/client_cost.py [--repeats 3] [--append] [--render-only]

A repetition takes a minute and a half; `--append` adds more to those that are there.
The same closed loop by every client, in turn, in every repetition: the load test's own (the whole Locust process, as a
run starts it) and four others as their documentation reads a stream. The client has one core, the server of known
times the other. A bias is the client's median minus that of the server's own record of its writes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.measures import inter_token_latencies_s, ttft_s
from artifacts.progress import silent
from artifacts.provenance import collect_provenance, package_versions
from artifacts.run import RequestRecord
from benchmarks.client_peers import PEERS, PROMPT
from benchmarks.pages import draw_page, made_with, page_parser, read_raw, write_raw
from loadtest.plan import Outcome, Plan
from loadtest.player import play

ROOT = Path(__file__).resolve().parents[1]
STEM = Path(__file__).with_name("client_cost_cpu_202611")
PORT = 8767
CLIENT_CORE, SERVER_CORE = 0, 1
OURS = "prunebench"
TTFT_S, ITL_S, TOKENS = 0.020, 0.010, 100
LEAD_IN_S, WINDOW_S = 1.0, 3.0
LEVELS = {64: (OURS, *PEERS), 200: (OURS, *PEERS), 500: (OURS, "aiohttp")}
"""Streams of 100 tokens/s each, and who is asked to read them."""
CLIENTS = ("locust", "gevent", "aiohttp", "httpx", "openai")
TARGET_STREAMS, TARGET_US, TARGET_BIAS_MS = 200, 20.0, 0.2


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="to the repetitions of the raw data")
    options = parser.parse_args()
    if not options.render_only:
        provenance = collect_provenance().model_dump(mode="json")
        provenance["versions"] |= package_versions(CLIENTS)
        before: dict[str, Any] = read_raw(STEM) if options.append else {"repeats": 0, "rows": []}
        repeats = before["repeats"] + options.repeats
        rows = before["rows"] + measure(range(before["repeats"], repeats))
        write_raw(STEM, {"repeats": repeats, "rows": rows, "provenance": provenance})
    draw_page(STEM, render)


def measure(repeats: range) -> list[dict[str, Any]]:
    os.sched_setaffinity(0, {CLIENT_CORE})
    rows = []
    with token_server():
        for repeat in repeats:
            for streams, arms in LEVELS.items():
                for arm in arms:
                    truth()
                    seen = ours(streams) if arm == OURS else peers(arm, streams)
                    rows.append({"repeat": repeat, "streams": streams, "arm": arm, **figures(seen, truth())})
                    sys.stderr.write(json.dumps(rows[-1]) + "\n")
    return rows


@contextmanager
def token_server() -> Iterator[None]:
    argv = ("taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.token_server", str(PORT))
    server = subprocess.Popen((*argv, str(TTFT_S), str(ITL_S)), cwd=ROOT)
    try:
        wait_for_it()
        yield
    finally:
        server.kill()
        server.wait()


def wait_for_it() -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            truth()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def truth() -> dict[str, list[float]]:
    """What the server wrote since it was last asked."""
    with urlopen(f"http://127.0.0.1:{PORT}/truth", timeout=30) as answer:
        wrote: dict[str, list[float]] = json.load(answer)
    return wrote


def peers(name: str, streams: int) -> dict[str, Any]:
    asked = (name, PORT, streams, TOKENS, LEAD_IN_S, WINDOW_S)
    argv = (sys.executable, "-m", "benchmarks.client_peers", *map(str, asked))
    seen: dict[str, Any] = json.loads(subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return seen


def played(level: dict[str, Any], output_tokens: int, window_s: float) -> tuple[list[RequestRecord], Outcome]:
    """One window of the load test's own client on the token server, through a Locust process of its own."""
    plan = Plan.parse(
        {
            "url": f"http://127.0.0.1:{PORT}",
            "arms": ["m"],
            "level": level,
            "workload": {"prompt_tokens": len(PROMPT), "output_tokens": output_tokens},
            "blocks": 1,
            "window_s": window_s,
            "lead_in_s": LEAD_IN_S,
            "timeout_s": 30,
            "nonce": 1,
        },
        "the benchmark",
    )
    with tempfile.TemporaryDirectory() as folder:
        return play(plan, Path(folder), None, "client", silent)


def ours(streams: int) -> dict[str, Any]:
    records, outcome = played({"concurrency": streams}, TOKENS, WINDOW_S)
    (window,) = outcome.windows
    counted = [r for r in records if r.ok and not r.warmup]
    return {
        "cpu_s": outcome.client_cpu_s,
        "tokens": sum(window.start_s <= t < window.end_s for r in records for t in r.event_s),
        "firsts_s": [v for r in counted for v in ttft_s(r)],
        "gaps_s": [v for r in counted for v in inter_token_latencies_s(r)],
        "failures": sum(not r.ok for r in records),
    }


def figures(seen: dict[str, Any], wrote: dict[str, list[float]]) -> dict[str, float]:
    """Per token and in ms. Biases are differences of percentiles, the client's minus the server's."""

    def bias_ms(name: str, p: int) -> float:
        return float(np.percentile(seen[name], p) - np.percentile(wrote[name], p)) * 1e3 if seen[name] else float("nan")

    return {
        "cpu_us_per_token": seen["cpu_s"] / max(1, seen["tokens"]) * 1e6,
        "cpu_share": seen["cpu_s"] / WINDOW_S,
        "tokens_per_s": seen["tokens"] / WINDOW_S,
        "ttft_p50_bias_ms": bias_ms("firsts_s", 50),
        "itl_p50_bias_ms": bias_ms("gaps_s", 50),
        "itl_p99_bias_ms": bias_ms("gaps_s", 99),
        "true_itl_p99_ms": float(np.percentile(wrote["gaps_s"], 99)) * 1e3,
        "failures": seen.get("failures", 0),
    }


COLUMNS = {
    "cpu_us_per_token": "CPU us per token",
    "tokens_per_s": "tokens/s",
    "ttft_p50_bias_ms": "TTFT p50 bias, ms",
    "itl_p50_bias_ms": "ITL p50 bias, ms",
    "itl_p99_bias_ms": "ITL p99 bias, ms",
}


def over(rows: list[dict[str, Any]], streams: int, arm: str, name: str) -> list[float]:
    return [row[name] for row in rows if (row["streams"], row["arm"]) == (streams, arm)]


def verdict(rows: list[dict[str, Any]]) -> str:
    cost_us = statistics.median(over(rows, TARGET_STREAMS, OURS, "cpu_us_per_token"))
    bias_ms = statistics.median(over(rows, TARGET_STREAMS, OURS, "itl_p50_bias_ms"))
    reached = cost_us <= TARGET_US and abs(bias_ms) <= TARGET_BIAS_MS
    return f"**{'Yes' if reached else 'No'}:** {cost_us:.1f} us and {bias_ms:+.3f} ms."


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    rows = raw["rows"]
    lines = [
        "# What the load client costs, and how true its times are",
        "",
        f"*Question: does a token cost the client {TARGET_US:g} us of processor time at most, with an inter-token "
        f"latency that is true to {TARGET_BIAS_MS:g} ms at 20,000 tokens/s?* {verdict(rows)}",
    ]
    for streams, arms in LEVELS.items():
        lines += ["", f"## {streams} streams of 100 tokens/s", "", "| client | " + " | ".join(COLUMNS.values()) + " |"]
        lines += ["| --- | " + " | ".join("---:" for _ in COLUMNS) + " |"]
        lines += [_row(rows, streams, arm) for arm in arms]
    lines += [
        "",
        f"Median [least, most] of {raw['repeats']} repetitions of {WINDOW_S:g} s. The loop is closed: requests of "
        f"{TOKENS} tokens, {ITL_S * 1e3:g} ms apart after a first one at {TTFT_S * 1e3:g} ms, and a stream asks anew "
        "when its answer has ended, so a client that cannot follow gets fewer tokens. A bias is a percentile of what "
        "the client reports minus the same percentile of when the server wrote. Processor time is that of the client's "
        "process while it reads, user and system; prunebench parses its answers after that, the others as they read. "
        "Client and server have one core each.",
        "",
        f"Made with {made_with(raw['provenance'], CLIENTS)}.",
    ]
    return "\n".join(lines) + "\n"


def _row(rows: list[dict[str, Any]], streams: int, arm: str) -> str:
    return f"| {arm} | " + " | ".join(_cell(over(rows, streams, arm, name)) for name in COLUMNS) + " |"


def _cell(values: list[float]) -> str:
    digits = 0 if max(values) >= 1000 else 1 if max(values) >= 100 else 3
    return f"{statistics.median(values):,.{digits}f} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


if __name__ == "__main__":
    main()
