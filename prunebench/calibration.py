"""What can the load client do on this machine? Its own Locust processes against a server whose times are known.

The errors are those of the client and of the machine as it is now: whoever keeps the cores busy shows here as well. The
simulator's timers are good to a millisecond, evenly around the truth, so medians are compared, not single gaps.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
from pydantic import Field

from artifacts.document import Document
from artifacts.errors import LoadTestError
from artifacts.measures import inter_token_latencies_s, ttft_s
from artifacts.progress import Progress, silent
from artifacts.run import Level, RequestRecord, Workload
from loadtest.endpoint import Endpoint
from loadtest.plan import Outcome, Plan
from loadtest.player import play

NAME = "calibration"
TTFT_S, ITL_S = 0.020, 0.010
WINDOW_S, LEAD_IN_S = 2.0, 0.5
_TOKENS = 50
_START_S = 20.0


class Calibration(Document):
    """Errors are the client's median minus the truth, in seconds; processor time is the busiest process's."""

    asked_tokens_per_s: float | None = Field(description="null where the load is an open loop's")
    tokens_per_s: float
    client_processes: int
    cpu_us_per_token: float
    cpu_share: float
    ttft_p50_error_s: float
    itl_p50_error_s: float
    itl_p99_error_s: float
    send_lateness_p99_s: float
    loop_lag_p99_s: float
    failures: int


def calibrate(tokens_per_s: float, client_processes: int = 1, progress: Progress = silent) -> Calibration:
    """With as many streams of 100 tokens/s as make `tokens_per_s`. Raises LoadTestError."""
    answer_s = TTFT_S + (_TOKENS - 1) * ITL_S
    plan = Plan(
        url="http://127.0.0.1:1",
        arms=(NAME,),
        level=Level(concurrency=max(1, round(tokens_per_s * answer_s / _TOKENS))),
        workload=Workload(prompt_tokens=16, output_tokens=_TOKENS),
        blocks=1,
        window_s=WINDOW_S,
        lead_in_s=LEAD_IN_S,
        timeout_s=30,
        nonce=secrets.randbits(48),
        client_processes=client_processes,
    )
    return calibrate_for(plan, ITL_S, progress).model_copy(update={"asked_tokens_per_s": tokens_per_s})


def calibrate_for(plan: Plan, itl_s: float = ITL_S, progress: Progress = silent) -> Calibration:
    """Two seconds of the plan's own load on a simulated model that gives a token each `itl_s`. Raises LoadTestError."""
    changes = {"arms": (NAME,), "blocks": 1, "window_s": WINDOW_S, "lead_in_s": LEAD_IN_S, "stop_on": ""}
    with _simulator(itl_s) as url, tempfile.TemporaryDirectory(prefix="prunebench-calibration-") as folder:
        asked = plan.model_copy(update=changes | {"url": url})
        records, outcome = play(asked, Path(folder), None, "calibrate the client", progress)
    return _calibration(records, outcome, itl_s, plan.client_processes)


def _calibration(records: list[RequestRecord], outcome: Outcome, itl_s: float, processes: int) -> Calibration:
    (window,) = outcome.windows
    counted = [r for r in records if r.ok and not r.warmup]
    gaps_s = [v for r in counted for v in inter_token_latencies_s(r)]
    if not gaps_s:
        raise LoadTestError("The calibration saw no tokens. Ask for a lower rate, or for outputs of several tokens.")
    tokens = sum(window.start_s <= t < window.end_s for r in records for t in r.event_s)
    late_s = [r.sent_s - r.scheduled_s for r in counted if r.sent_s is not None]
    return Calibration(
        asked_tokens_per_s=None,
        tokens_per_s=tokens / WINDOW_S,
        client_processes=processes,
        cpu_us_per_token=outcome.client_cpu_s * processes / max(1, tokens) * 1e6,
        cpu_share=outcome.client_cpu_s / WINDOW_S,
        ttft_p50_error_s=float(np.median([v for r in counted for v in ttft_s(r)])) - TTFT_S,
        itl_p50_error_s=float(np.median(gaps_s)) - itl_s,
        itl_p99_error_s=float(np.percentile(gaps_s, 99)) - itl_s,
        send_lateness_p99_s=float(np.percentile(late_s, 99)),
        loop_lag_p99_s=float(np.percentile(outcome.loop_lags_s, 99)) if outcome.loop_lags_s else 0.0,
        failures=sum(not r.ok for r in records),
    )


@contextmanager
def _simulator(itl_s: float) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    timing = ("--ttft-ms", str(TTFT_S * 1e3), "--itl-ms", str(itl_s * 1e3))
    argv = (sys.executable, "-m", "server.simulator", "--port", str(port), "--served-model-name", NAME, *timing)
    process = subprocess.Popen(argv, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str) -> None:
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            Endpoint(url).models()
            return
        except (LoadTestError, URLError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
