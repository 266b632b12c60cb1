"""Faults planted in whole runs: each trips its own gate and no other, and a healthy control trips none.

Late sends and a late event loop are planted in the records of `test_gates.py`; prefix-cache hits, preemptions,
shortened answers and answers in bunches are in `test_runner_faults.py`, in one run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from truth_server import Behaviour, TruthServer

from artifacts.run import Level, RunManifest
from loadtest.runner import LoadTestRequest, run_load_test

Serve = Callable[..., TruthServer]
Ask = Callable[..., LoadTestRequest]

# A greenlet, as a slow listener would be one: it keeps the client's own loop busy for three fifths of the time, in
# slices too short to make anything late.
BUSY = """
from time import perf_counter
import gevent

def keep_busy():
    while True:
        until_s = perf_counter() + 0.0015
        while perf_counter() < until_s:
            pass
        gevent.sleep(0.0005)

gevent.spawn(keep_busy)
"""


def failed(manifest: RunManifest) -> set[str]:
    return {gate.name for gate in manifest.gates if not gate.passed}


def observed(manifest: RunManifest, name: str) -> float | None:
    return next(gate.observed for gate in manifest.gates if gate.name == name)


def test_a_dropping_server_trips_the_error_gate_alone(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    """Every tenth answer of one model is cut off after four of ten tokens; the other model is the control."""
    url = serve(models={"a": Behaviour(), "cut": Behaviour(fail_every=10, drop_after_tokens=4)}).url
    manifest = run_load_test(ask(url, tmp_path / "run", models=("cut",), against="a", duration_s=2.4, blocks=4))
    assert failed(manifest) == {"error share"}
    assert observed(manifest, "error share") == pytest.approx(0.1, abs=0.04)


def test_an_open_loop_beyond_capacity_trips_the_drift_gate_alone(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    """One request at a time, 24 ms each, asked for 80 times a second: the queue grows while the load lasts."""
    url = serve(models={"a": Behaviour(ttft_s=0.006, itl_s=0.002, one_at_a_time=True)}).url
    level = Level(rate_per_s=80, arrivals="constant")
    manifest = run_load_test(ask(url, tmp_path / "run", level=level, duration_s=2.4, blocks=4))
    assert failed(manifest) == {"window drift"}
    assert {s.signal for s in manifest.steadiness if s.drift > 0.1} == {"ttft", "in_flight"}


def test_a_saturated_client_trips_the_gate_on_its_processor_time_alone(
    serve: Serve, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "sitecustomize.py").write_text(BUSY)
    url = serve(models={"a": Behaviour()}).url
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "busy"))
    manifest = run_load_test(ask(url, tmp_path / "run", models=("a",), against="a", duration_s=2.4, blocks=4))
    assert failed(manifest) == {"client CPU share"}
    assert (observed(manifest, "client CPU share") or 0) > 0.5


def test_a_healthy_control_trips_nothing(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    url = serve(models={"a": Behaviour()}).url
    manifest = run_load_test(ask(url, tmp_path / "run", models=("a",), against="a", duration_s=2.4, blocks=4))
    assert failed(manifest) == set()
    assert len(manifest.littles_law) == 8
    assert {s.measure for s in manifest.arms[0].suppressed} >= {"ttft_p99_s", "e2e_p99_s"}
    assert {s.measure for s in manifest.comparisons[0].suppressed} >= {"speedup_ttft_p99", "speedup_tpot_p95"}
