"""Faults planted in whole runs: each trips its own gate and no other, and a healthy control trips none.

Prefix-cache hits, preemptions, shortened answers and answers in bunches are in `test_runner_faults.py`, in one run.
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

# In the Locust process, once it has loaded, a second thread takes the interpreter's lock for `busy_s`, then sleeps.
_BURNER = """
import sys, threading, time
def burn(busy_s, idle_s):
    while "loadtest.wire" not in sys.modules:
        time.sleep(0.05)
    sys.setswitchinterval({switch_s})
    while True:
        end_s = time.perf_counter() + busy_s
        while time.perf_counter() < end_s:
            pass
        time.sleep(idle_s)
if any("locust" in part for part in sys.orig_argv):
    threading.Thread(target=burn, args=({busy_s}, {idle_s}), daemon=True).start()
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


def burnt(ask: Ask, url: str, out: Path, monkeypatch: pytest.MonkeyPatch, **burner: float) -> RunManifest:
    """A run whose client has the burner in its process. Answers are slow, so that no two events are near each other."""
    folder = out / "burner"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_BURNER.format(**burner))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return run_load_test(ask(url, out / "run", duration_s=2.4, blocks=4, output_tokens=4, warmup_s=0.2))


def test_a_saturated_client_trips_its_cpu_gate_alone(
    serve: Serve, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy for more than half of the time, under a millisecond at once: too short to be seen as lag."""
    url = serve(models={"a": Behaviour(ttft_s=0.03, itl_s=0.03)}).url
    manifest = burnt(ask, url, tmp_path, monkeypatch, busy_s=0.0007, idle_s=0.0003, switch_s=0.001)
    assert failed(manifest) == {"client CPU share"}


def test_a_loop_that_is_held_up_trips_the_lag_gate_alone(
    serve: Serve, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 25 ms in each 150 nobody else in the process runs: a sixth of its time, in long pieces."""
    url = serve(models={"a": Behaviour(ttft_s=0.03, itl_s=0.06)}).url
    manifest = burnt(ask, url, tmp_path, monkeypatch, busy_s=0.025, idle_s=0.125, switch_s=1.0)
    assert failed(manifest) == {"event-loop lag p99"}
    assert (observed(manifest, "event-loop lag p99") or 0) < 0.04


def test_an_open_loop_beyond_capacity_trips_the_drift_gate_alone(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    """One request at a time, 24 ms each, asked for 80 times a second: the queue grows while the load lasts."""
    url = serve(models={"a": Behaviour(ttft_s=0.006, itl_s=0.002, one_at_a_time=True)}).url
    level = Level(rate_per_s=80, arrivals="constant")
    manifest = run_load_test(ask(url, tmp_path / "run", level=level, duration_s=2.4, blocks=4))
    assert failed(manifest) == {"window drift"}
    assert {s.signal for s in manifest.steadiness if s.drift > 0.1} == {"ttft", "in_flight"}


def test_a_healthy_control_trips_nothing(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    url = serve(models={"a": Behaviour()}).url
    manifest = run_load_test(ask(url, tmp_path / "run", models=("a",), against="a", duration_s=2.4, blocks=4))
    assert failed(manifest) == set()
    assert len(manifest.littles_law) == 8
    assert {s.measure for s in manifest.arms[0].suppressed} >= {"ttft_p99_s", "e2e_p99_s"}
    assert {s.measure for s in manifest.comparisons[0].suppressed} >= {"speedup_ttft_p99", "speedup_tpot_p95"}
