"""Locust's own command line and web UI: rows of their own, to a tenth of a millisecond, concurrency by user count."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from truth_server import Behaviour, TruthServer

from loadtest.protocol import parse_progress, progress_line
from tests.ports import free_port

Serve = Callable[..., TruthServer]

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
LOCUST = (sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"))
ITL_S, TTFT_S = 0.0053, 0.02


@pytest.fixture(scope="module")
def server(serve: Serve) -> TruthServer:
    return serve(models={"a": Behaviour(TTFT_S, ITL_S)})


def rows_by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_headless_by_hand(server: TruthServer) -> None:
    command = [*LOCUST, "--headless", "-u", "3", "-r", "3", "-t", "2s", "--host", server.url, "--json"]
    command += ["--output-tokens", "11", "--prompt-tokens", "9"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60)
    rows = rows_by_name(json.loads(done.stdout))
    assert set(rows) == {"TTFT a", "TPOT a", "ITL a", "E2E a"}
    assert rows["ITL a"]["num_requests"] == 10 * rows["TPOT a"]["num_requests"]
    assert rows["E2E a"]["num_failures"] == 0
    mean_ms = rows["TPOT a"]["total_response_time"] / rows["TPOT a"]["num_requests"]
    assert mean_ms == pytest.approx(1e3 * ITL_S, rel=0.1)
    keys = [float(key) for key in rows["TPOT a"]["response_times"]]
    assert all(round(key, 1) == key for key in keys)
    assert any(key != round(key) for key in keys)
    bodies = [body for body in server.bodies if len(body["prompt"]) == 9]
    assert {body["max_tokens"] for body in bodies} == {11}
    assert len({tuple(body["prompt"]) for body in bodies}) == len(bodies)


def test_the_web_interface_runs_a_test(server: TruthServer) -> None:
    port = free_port()
    command = [*LOCUST, "--host", server.url, "--web-host", "127.0.0.1", "--web-port", str(port), "--model", "a"]
    page = f"http://127.0.0.1:{port}"
    locust = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert b"Locust" in eventually(lambda: read(page + "/"))
        form = urlencode({"user_count": 2, "spawn_rate": 2, "host": server.url, "output_tokens": 5}).encode()
        assert json.loads(read(page + "/swarm", form))["success"]
        rows = eventually(lambda: completed_rows(page))
        assert {"TTFT a", "TPOT a", "ITL a", "E2E a"} <= set(rows)
        assert rows["TTFT a"]["median_response_time"] == pytest.approx(1e3 * TTFT_S, abs=15)
        assert json.loads(read(page + "/stats/requests"))["user_count"] == 2
        counted = samples(read(page + "/metrics"))
        assert counted["prunebench_loadtest_completed_requests_total"] >= 1
        assert counted["prunebench_loadtest_output_tokens_total"] == pytest.approx(
            5 * counted["prunebench_loadtest_completed_requests_total"]
        )
        mean_s = (
            counted["prunebench_loadtest_time_to_first_token_seconds_sum"]
            / counted["prunebench_loadtest_time_to_first_token_seconds_count"]
        )
        assert mean_s == pytest.approx(TTFT_S, abs=0.015)
    finally:
        os.killpg(locust.pid, signal.SIGKILL)
        locust.wait()


def samples(page: bytes) -> dict[str, float]:
    """By name; there is one model."""
    families = text_string_to_metric_families(page.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def read(url: str, data: bytes | None = None) -> bytes:
    with urlopen(url, data, timeout=5) as response:
        return bytes(response.read())


def completed_rows(page: str) -> dict[str, dict[str, Any]]:
    rows = rows_by_name(json.loads(read(page + "/stats/requests"))["stats"])
    return rows if rows.get("E2E a", {}).get("num_requests", 0) > 3 else {}


def eventually(ask: Callable[[], Any], deadline_s: float = 90) -> Any:
    end = time.monotonic() + deadline_s
    while True:
        try:
            if found := ask():
                return found
        except (URLError, ConnectionError):
            pass
        assert time.monotonic() < end, "no answer in time"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(progress_line(1.5, 20), (1.5, 20.0), id="what the player prints is what the runner reads"),
        pytest.param("Type     Name   # reqs\n", None, id="Locust's tables are no progress"),
        pytest.param("\n", None, id="an empty line is none"),
    ],
)
def test_progress_lines(line: str, expected: tuple[float, float] | None) -> None:
    assert parse_progress(line) == expected


def test_two_workers_by_hand_merge_rows_that_keep_their_tenths(server: TruthServer, tmp_path: Path) -> None:
    command = [*LOCUST, "--headless", "-u", "4", "-r", "4", "-t", "4s", "--host", server.url, "--output-tokens", "7"]
    port = str(free_port())
    command += [
        "--processes",
        "2",
        "--master-bind-host",
        "127.0.0.1",
        "--master-bind-port",
        port,
        "--master-port",
        port,
    ]
    subprocess.run([*command, "--csv", str(tmp_path / "of")], env=ENVIRONMENT, check=True, timeout=90)
    rows = {row["Name"]: row for row in csv.DictReader((tmp_path / "of_stats.csv").read_text().splitlines())}
    counts = {name: int(row["Request Count"]) for name, row in rows.items()}
    assert counts["ITL a"] == 6 * counts["TPOT a"]
    assert counts["E2E a"] == counts["TTFT a"] == counts["TPOT a"] > 20
    assert float(rows["TPOT a"]["Median Response Time"]) == pytest.approx(1e3 * ITL_S, abs=0.2)
    assert not float(rows["TPOT a"]["Median Response Time"]).is_integer()


STOPS = [
    ("ttft_p50>1ms", 3, "Stopped by --stop-on ttft_p50>1ms: over the last 5 s it was 2"),
    ("ttft_p50>900ms", 0, None),
    ("ttft_p50", 3, "--stop-on 'ttft_p50' is no limit."),
]


@pytest.mark.parametrize(("limit", "code", "said"), STOPS)
def test_a_broken_limit_ends_the_test_and_says_so(
    server: TruthServer, tmp_path: Path, limit: str, code: int, said: str | None
) -> None:
    command = [*LOCUST, "--headless", "-u", "4", "-r", "4", "-t", "20s" if said else "2s", "--host", server.url]
    command += ["--output-tokens", "3", "--stop-on", limit, "--stop-on-window", "5", "--only-summary"]
    command += ["--csv", str(tmp_path / "of"), "--html", str(tmp_path / "of.html")]
    began_s = time.monotonic()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert (said or "") in done.stderr
    assert ("--stop-on" in done.stderr) == (said is not None)
    assert time.monotonic() - began_s < 25
    if said is None:
        assert "TTFT a" in (tmp_path / "of_stats.csv").read_text()
        assert "TTFT a" in (tmp_path / "of.html").read_text()
