"""What goes wrong is recorded or refused in one sentence, and never leaves half of a run behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from truth_server import Behaviour, TruthServer

from artifacts.errors import ConfigError, LoadTestError
from artifacts.run import Level, RunManifest, Workload, read_requests
from loadtest.runner import LoadTestRequest, make_plan, run_load_test
from tests.ports import free_port

Serve = Callable[..., TruthServer]
Ask = Callable[..., LoadTestRequest]

ROOT = Path(__file__).parents[2]


def failed(manifest: RunManifest) -> set[str]:
    return {gate.name for gate in manifest.gates if not gate.passed}


def test_failures_are_recorded_by_kind_and_make_the_run_invalid(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    behaviours = {
        "sound": Behaviour(),
        "cut": Behaviour(fail_every=3, drop_after_tokens=4),
        "erring": Behaviour(fail_every=3, error_after_tokens=4),
        "full": Behaviour(status=503),
    }
    request = ask(serve(models=behaviours).url, tmp_path / "run", models=tuple(behaviours), duration_s=0.8)
    manifest = run_load_test(request)
    assert not manifest.valid
    assert {"error share", "requests per arm", "requests per block"} == failed(manifest)
    kinds = {arm.model: set(arm.failures_by_kind) for arm in manifest.arms}
    assert kinds == {"sound": set(), "cut": {"closed"}, "erring": {"stream_error"}, "full": {"http_503"}}
    records = read_requests(tmp_path / "run" / "requests.parquet")
    for summary in manifest.arms:
        mine = [r for r in records if r.model == summary.model and not r.warmup]
        assert (summary.requests, summary.failures) == (len(mine), sum(not r.ok for r in mine))
    assert all(len(r.event_s) == 4 for r in records if r.model in ("cut", "erring") and not r.ok and r.index >= 4)
    share = next(gate for gate in manifest.gates if gate.name == "error share")
    assert share.observed == 1


def test_a_server_that_cheats_or_struggles_makes_the_run_invalid(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    behaviours = {
        "short": Behaviour(short_by_tokens=2),
        "bunched": Behaviour(tokens_per_write=5),
        "cached": Behaviour(prefix_hit_share=0.5),
        "preempting": Behaviour(preemptions_per_request=1),
    }
    request = ask(serve(models=behaviours).url, tmp_path / "run", models=tuple(behaviours), duration_s=0.8)
    manifest = run_load_test(request)
    assert failed(manifest) == {"length mismatch", "events per read", "prefix cache hits", "preemptions"}
    assert all(arm.failures == 0 for arm in manifest.arms)
    observed = {gate.name: gate.observed for gate in manifest.gates}
    assert observed["prefix cache hits"] == pytest.approx(0.5)
    assert manifest.comparisons == ()


def test_a_control_against_itself_keeps_its_arms_apart(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    url = serve(models={"a": Behaviour()}).url
    manifest = run_load_test(ask(url, tmp_path / "run", models=("a",), against="a", duration_s=1.2, blocks=3))
    assert [arm.model for arm in manifest.arms] == ["a", "a"]
    counts = [sum(r.arm == arm for r in read_requests(tmp_path / "run" / "requests.parquet")) for arm in (0, 1)]
    assert min(counts) > 20
    assert manifest.comparisons[0].ratios["speedup_tpot_p50"].value == pytest.approx(1, abs=0.05)


def test_a_request_that_never_ends_is_a_timeout(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    url = serve(models={"a": Behaviour(ttft_s=30)}).url
    manifest = run_load_test(ask(url, tmp_path / "run", duration_s=0.4, blocks=1, timeout_s=0.5))
    assert manifest.arms[0].requests == 0
    assert {r.failure_kind for r in read_requests(tmp_path / "run" / "requests.parquet")} == {"timeout"}
    assert "error share" in failed(manifest)


def test_a_key_is_sent_and_kept_out_of_the_files(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    url = serve(models={"a": Behaviour()}, api_key="sesame").url
    assert run_load_test(ask(url, tmp_path / "run", duration_s=0.4, blocks=1, api_key="sesame")).arms[0].failures == 0
    assert all(b"sesame" not in path.read_bytes() for path in (tmp_path / "run").iterdir())
    with pytest.raises(LoadTestError, match=r"401.*API key"):
        run_load_test(ask(url, tmp_path / "other", api_key="wrong"))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        pytest.param({"models": ("b",)}, LoadTestError, "'b' is not served. Choose from: a, z", id="unknown model"),
        pytest.param({"against": "c"}, LoadTestError, "'c' is not served", id="unknown reference"),
        pytest.param({"output_tokens": 90}, LoadTestError, "106 tokens, model 'a' takes 100", id="beyond the context"),
        pytest.param({"models": ()}, ConfigError, "distinct names", id="no model"),
        pytest.param({"models": ("a", "a")}, ConfigError, "distinct names", id="a model twice"),
        pytest.param({"blocks": 0}, ConfigError, "blocks", id="no block"),
        pytest.param({"duration_s": -1.0}, ConfigError, "window_s", id="negative duration"),
        pytest.param({"level": Level()}, ConfigError, "concurrency or a rate", id="no level"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    serve: Serve, ask: Ask, tmp_path: Path, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    server = serve(models={"a": Behaviour(), "z": Behaviour()}, max_model_len=100)
    with pytest.raises(error, match=sentence):
        run_load_test(ask(server.url, tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []
    assert server.bodies == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        pytest.param(f"http://127.0.0.1:{free_port()}", "cannot be reached.*refused", id="nobody listens"),
        pytest.param("http://no-such-host.invalid", "cannot be reached", id="no such host"),
        pytest.param("https://127.0.0.1:1", "no usable address.*without TLS", id="TLS is not spoken"),
        pytest.param("127.0.0.1:8000", "no usable address", id="the scheme is missing"),
        pytest.param("http://127.0.0.1:port", "no usable address", id="the port is no number"),
        pytest.param("", "no usable address", id="nothing"),
    ],
)
def test_an_unreachable_server_is_one_sentence(ask: Ask, tmp_path: Path, url: str, sentence: str) -> None:
    with pytest.raises(LoadTestError, match=sentence):
        run_load_test(ask(url, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["/", "/v1", "/v1/"])
def test_a_base_url_as_clients_write_it_is_understood(ask: Ask, tmp_path: Path, suffix: str) -> None:
    assert make_plan(ask("http://127.0.0.1:8000" + suffix, tmp_path)).url == "http://127.0.0.1:8000"


def test_an_existing_result_is_not_touched(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("precious")
    server = serve(models={"a": Behaviour()})
    with pytest.raises(ConfigError, match="already exists"):
        run_load_test(ask(server.url, tmp_path / "run"))
    assert (tmp_path / "run" / "run.json").read_text() == "precious"
    assert server.bodies == []


# A background job of a shell ignores SIGINT and hands that on to its children; the run under test must not.
_RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from artifacts.run import Level, Workload
from loadtest.runner import LoadTestRequest, run_load_test
run_load_test(LoadTestRequest(url=sys.argv[1], models=("a",), against=None, level=Level(concurrency=2),
    workload=Workload(prompt_tokens=4, output_tokens=4), duration_s=60, out=Path(sys.argv[2]) / "run"))
"""


def wait_for(condition: Callable[[], bool], deadline_s: float = 90) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


def test_a_killed_run_leaves_no_process_and_no_result(serve: Serve, tmp_path: Path) -> None:
    """Interrupted, terminated and killed outright, side by side."""
    runs = [
        KilledRun(serve, tmp_path / number.name, number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ]
    try:
        for run in runs:
            wait_for(lambda run=run: len(run.server.bodies) > 3)
            children = psutil.Process(run.process.pid).children(recursive=True)
            assert any("locust" in " ".join(child.cmdline()) for child in children)
            run.process.send_signal(run.number)
            assert run.process.wait(60) != 0
            wait_for(lambda children=children: not any(child.is_running() for child in children))
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    assert all(list(run.out.iterdir()) == [] for run in runs)
    assert [list(run.temporary.iterdir()) for run in runs[:2]] == [[], []]  # nothing can clean up after SIGKILL


class KilledRun:
    """A minute-long load test in a process of its own, with a temporary folder of its own."""

    def __init__(self, serve: Serve, folder: Path, number: signal.Signals) -> None:
        self.number, self.out, self.temporary = number, folder / "out", folder / "tmp"
        self.out.mkdir(parents=True)
        self.temporary.mkdir()
        self.server = serve(models={"a": Behaviour()})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN, self.server.url, str(self.out)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
            stderr=subprocess.DEVNULL,
        )


def test_a_player_that_dies_is_reported_with_its_last_words(
    serve: Serve, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "locust.py").write_text("raise SystemExit('this Locust is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    url = serve(models={"a": Behaviour()}).url
    with pytest.raises(LoadTestError, match="this Locust is broken"):
        run_load_test(ask(url, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_runner_process_imports_neither_locust_nor_gevent() -> None:
    code = "import sys, loadtest.runner; print([m for m in ('locust', 'gevent') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_workload_of_a_request_reaches_the_plan(ask: Ask, tmp_path: Path) -> None:
    request = ask("http://127.0.0.1:1", tmp_path, against="r", workload=Workload(prompt_tokens=3, output_tokens=4))
    plan = make_plan(request)
    assert plan.arms == ("r", "a")
    assert (plan.workload.prompt_tokens, plan.window_s, plan.lead_in_s) == (3, 0.5, 0.1)
    assert make_plan(request).nonce != plan.nonce
