"""Does a whole Locust process report what a server says that it wrote, be it regular, jittered or stalled?

And do the committed measurements of the client say what the documents claim, and could they say otherwise?
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from artifacts.measures import inter_token_latencies_s, ttft_s
from artifacts.progress import silent
from benchmarks import client_cost
from benchmarks.pages import read_raw
from benchmarks.token_server import STALL_S
from loadtest.plan import Plan
from loadtest.player import play
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
TTFT_S, ITL_S, STREAMS = 0.05, 0.008, 6


def page(url: str, path: str) -> Any:
    with urlopen(url + path, timeout=20) as answer:
        return json.load(answer)


@contextmanager
def token_server(jitter_s: float) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.token_server", str(port), str(TTFT_S), str(ITL_S), str(jitter_s)]
    server = subprocess.Popen(argv, cwd=ROOT)
    url, deadline_s = f"http://127.0.0.1:{port}", time.monotonic() + 20
    try:
        while True:
            try:
                page(url, "/truth")
                break
            except (URLError, ConnectionError):
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
        yield url
    finally:
        server.kill()
        server.wait()


def measured(url: str, folder: Path, during: Any = None) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(what the client reports, what the server wrote) of one run of a second and a half."""
    plan = Plan.parse(
        {
            "url": url,
            "arms": ["m"],
            "level": {"concurrency": STREAMS},
            "workload": {"prompt_tokens": 4, "output_tokens": 20},
            "blocks": 1,
            "window_s": 1.5,
            "lead_in_s": 0,
            "timeout_s": 20,
            "nonce": 1,
        },
        "the test",
    )

    def progress(stage: str, done_s: float, total_s: float) -> None:
        if during is not None and 0 < done_s < total_s:
            during()

    records, _ = play(plan, folder, None, "truth", progress if during else silent)
    assert [r.error for r in records if not r.ok] == []
    seen = {
        "firsts_s": [v for r in records for v in ttft_s(r)],
        "gaps_s": [v for r in records for v in inter_token_latencies_s(r)],
    }
    return seen, page(url, "/truth")


def close(seen_s: float, true_s: float) -> bool:
    """To 0.2 ms or 1 %."""
    return abs(seen_s - true_s) <= max(0.0002, 0.01 * true_s)


@pytest.mark.parametrize("jitter_s", [0.0, 0.004], ids=["regular", "jittered"])
def test_what_was_written_is_what_is_reported(tmp_path: Path, jitter_s: float) -> None:
    with token_server(jitter_s) as url:
        seen, wrote = measured(url, tmp_path)
    assert len(seen["gaps_s"]) == len(wrote["gaps_s"]) > 500
    for percentile in (10, 25, 50, 75, 90):
        here, there = (float(np.percentile(of["gaps_s"], percentile)) for of in (seen, wrote))
        assert close(here, there), (percentile, here, there)
    spread_s = np.percentile(seen["gaps_s"], 90) - np.percentile(seen["gaps_s"], 10)
    assert (spread_s > 0.005) == (jitter_s > 0)
    assert np.mean(seen["gaps_s"]) == pytest.approx(np.mean(wrote["gaps_s"]), rel=0.005)
    here, there = (float(np.median(of["firsts_s"])) for of in (seen, wrote))
    assert close(here, there), (here, there)
    assert here > there  # the server cannot have it before it was sent


def test_a_stall_is_one_long_gap_of_every_stream(tmp_path: Path) -> None:
    with token_server(0.0) as url:
        stalls: list[threading.Thread] = []

        def stall_once() -> None:
            if not stalls:
                stalls.append(threading.Thread(target=page, args=(url, "/stall")))
                stalls[0].start()

        seen, wrote = measured(url, tmp_path, stall_once)
        stalls[0].join()
    here, there = sorted(seen["gaps_s"])[-STREAMS:], sorted(wrote["gaps_s"])[-STREAMS:]
    assert max(there) > 0.9 * STALL_S
    assert all(close(a, b) for a, b in zip(here, there, strict=True))
    assert close(float(np.median(seen["gaps_s"])), ITL_S)


@pytest.fixture(scope="module")
def cost() -> dict[str, Any]:
    return read_raw(client_cost.STEM)


def test_a_token_costs_no_more_than_was_promised_and_keeps_its_time(cost: dict[str, Any]) -> None:
    assert cost["repeats"] >= 2
    assert sum(row["failures"] for row in cost["rows"]) == 0
    for streams in (200, 500):
        assert np.median(client_cost.over(cost["rows"], streams, client_cost.OURS, "cpu_us_per_token")) <= 20
        biases = client_cost.over(cost["rows"], streams, client_cost.OURS, "itl_p50_bias_ms")
        assert max(map(abs, biases)) <= 0.2
    assert "**Yes:**" in client_cost.render(cost)


def test_every_client_was_measured_in_every_repetition(cost: dict[str, Any]) -> None:
    for streams, arms in client_cost.LEVELS.items():
        for arm in arms:
            rows = [row for row in cost["rows"] if (row["streams"], row["arm"]) == (streams, arm)]
            assert [row["repeat"] for row in rows] == list(range(cost["repeats"]))


@pytest.mark.parametrize(("name", "value"), [("cpu_us_per_token", 20.1), ("itl_p50_bias_ms", -0.21)])
def test_a_worse_client_would_be_told(cost: dict[str, Any], name: str, value: float) -> None:
    worse = copy.deepcopy(cost)
    for row in worse["rows"]:
        row[name] = value
    assert "**No:**" in client_cost.render(worse)


def test_the_page_is_drawn_from_the_raw_data(cost: dict[str, Any]) -> None:
    assert client_cost.STEM.with_suffix(".md").read_text(encoding="utf-8") == client_cost.render(cost)
