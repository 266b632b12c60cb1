"""Whole runs through Locust against the simulator: a stalled server, a real trace, conversations, a mix."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from truth_server import Behaviour, TruthServer

from artifacts.arrivals import Poisson, Replay
from artifacts.lengths import TraceTokens
from artifacts.measures import e2e_s, ttft_s
from artifacts.run import Level, RequestRecord, RunManifest, Workload, read_requests
from artifacts.traffic import ChatFile, TraceSource
from loadtest.plan import Plan
from loadtest.runner import LoadTestRequest, run_load_test
from loadtest.traces import read_trace
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
AZURE = ROOT / "../shared/data/traces/azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
TTFT_S, STALL_S, STALL_AFTER_S = 0.004, 2.0, 0.75
Ask = Callable[..., LoadTestRequest]
Ran = tuple[RunManifest, list[RequestRecord], Plan]


@pytest.fixture(scope="module")
def simulator() -> Iterator[tuple[str, int]]:
    """URL and process id of a simulator that answers after 4 ms with a token each 2 ms."""
    port = free_port()
    times = ("--ttft-ms", str(TTFT_S * 1e3), "--itl-ms", "2")
    command = [sys.executable, "-m", "server.simulator", "--port", str(port), "--served-model-name", "sim", *times]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, ConnectionError):
            assert time.monotonic() < end, "the simulator did not start"
            time.sleep(0.05)


def ran(request: LoadTestRequest, progress: Callable[[str, float, float], None]) -> Ran:
    manifest = run_load_test(request, progress)
    return manifest, read_requests(request.out / "requests.parquet"), Plan.load(request.out / "plan.json")


def quiet(stage: str, done: float, total: float) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def stalled(simulator: tuple[str, int], ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, float]:
    """Poisson arrivals at 30/s; the simulator's process stands still for two seconds. Also, how long it really did."""
    url, pid = simulator
    stood_s: list[float] = []

    def stall(stage: str, done_s: float, total_s: float) -> None:
        if done_s < STALL_AFTER_S or stood_s:
            return
        os.kill(pid, signal.SIGSTOP)
        start_s = time.monotonic()
        try:
            time.sleep(STALL_S)
        finally:
            os.kill(pid, signal.SIGCONT)
            stood_s.append(time.monotonic() - start_s)

    level = Level(arrivals=Poisson(rate_per_s=30))
    request = ask(
        url, tmp_path_factory.mktemp("stalled") / "run", models=("sim",), level=level, duration_s=4.0, blocks=1
    )
    return ran(request, stall), stood_s[0]


def test_every_request_due_in_a_stall_counts_its_wait_from_when_it_was_due(stalled: tuple[Ran, float]) -> None:
    """Coordinated omission would show one slow request per connection; here all that were due show what they waited."""
    (_, records, _), stood_s = stalled
    over_s = max((r for r in records if ttft_s(r)[0] > 0.5), key=lambda r: r.scheduled_s).first_s
    assert over_s is not None
    end_s = min(r.first_s for r in records if r.first_s is not None and ttft_s(r)[0] > 0.5) - TTFT_S
    due = [r for r in records if end_s - stood_s + 0.05 <= r.scheduled_s < end_s - 0.05]
    assert len(due) == pytest.approx(30 * (STALL_S - 0.1), abs=30)
    waits = np.array([ttft_s(r)[0] - (end_s - r.scheduled_s) for r in due])
    assert waits.min() > 0
    assert np.percentile(waits, 95) < 0.1  # what the server needs to catch up
    assert max(ttft_s(r)[0] for r in due) > STALL_S - 0.2
    assert all(e2e_s(r)[0] > end_s - r.scheduled_s for r in due)


def test_nobody_else_sees_the_stall_and_nobody_was_sent_late(stalled: tuple[Ran, float]) -> None:
    (manifest, records, _), stood_s = stalled
    end_s = min(r.first_s for r in records if r.first_s is not None and ttft_s(r)[0] > 0.5) - TTFT_S
    others = [r for r in records if not end_s - stood_s - 0.1 <= r.scheduled_s < end_s + 0.1]
    assert len(others) > 20
    assert np.percentile([ttft_s(r)[0] for r in others], 95) < 0.1
    late = [r.sent_s - r.scheduled_s for r in records if r.sent_s is not None]
    assert len(late) == len(records)
    assert np.percentile(late, 90) < 0.01
    assert manifest.arms[0].failures == 0


@pytest.fixture(scope="module")
def replay(simulator: tuple[str, int], ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Forty recorded seconds, ten times as fast, lengths a quarter of what they were, in a context of 512 tokens."""
    if not AZURE.exists():
        pytest.skip("the shared test data are not beside this repository")
    source = TraceSource(path=str(AZURE), from_s=600, to_s=645, time_scale=0.1, length_scale=0.25)
    request = ask(
        simulator[0],
        tmp_path_factory.mktemp("replay") / "run",
        models=("sim",),
        level=Level(arrivals=Replay()),
        workload=Workload(prompt_tokens=TraceTokens(), output_tokens=TraceTokens()),
        trace=source,
        context_tokens=512,
        duration_s=3.6,
        blocks=2,
        warmup_s=0.2,
    )
    return ran(request, quiet)


def test_an_azure_trace_is_replayed_at_its_times_with_its_lengths(replay: Ran) -> None:
    manifest, records, plan = replay
    assert manifest.trace is not None
    recorded = [r for r in read_trace(manifest.trace) if r.at_s * 0.1 < 4.0]
    assert len(records) == len(recorded) > 100
    for block in (0, 1):
        mine = [r for r in records if r.block == block]
        theirs = recorded[plan.rows(block).start : plan.rows(block).stop]
        offsets = np.diff([r.scheduled_s for r in mine])
        assert offsets == pytest.approx(np.diff([r.at_s * 0.1 for r in theirs]), abs=2e-6)
        assert [r.asked_output_tokens for r in mine] == [max(1, round(r.output_tokens * 0.25)) for r in theirs]
        fitting = [(m, t) for m, t in zip(mine, theirs, strict=True) if not is_clipped(t)]
        assert [m.asked_prompt_tokens for m, _ in fitting] == [
            max(1, round(t.prompt_tokens * 0.25)) for _, t in fitting
        ]
    assert manifest.clipped_requests == sum(map(is_clipped, recorded)) > 0
    assert max((r.asked_prompt_tokens or 0) + (r.asked_output_tokens or 0) for r in records) == 512


def is_clipped(recorded: Any) -> bool:
    return max(1, round(recorded.prompt_tokens * 0.25)) + max(1, round(recorded.output_tokens * 0.25)) > 512


def test_the_server_read_and_wrote_what_the_trace_says_and_on_time(replay: Ran) -> None:
    manifest, records, _ = replay
    assert all(r.prompt_tokens == r.asked_prompt_tokens for r in records)
    assert all(r.output_tokens == r.asked_output_tokens == len(r.event_s) for r in records)
    gates = {gate.name: gate for gate in manifest.gates}
    assert {"length mismatch", "error share"} & {name for name, gate in gates.items() if not gate.passed} == set()
    lateness_s = [r.sent_s - r.scheduled_s for r in records if r.sent_s is not None]
    assert np.percentile(lateness_s, 90) < 0.01
    assert manifest.level.rate_per_s == pytest.approx(len(records) / 4.0)


def test_a_replay_needs_no_trace_but_its_own_plan(replay: Ran, simulator: tuple[str, int], tmp_path: Path) -> None:
    """The plan's file alone gives every request of the run again, under another nonce too but for the salt."""
    from loadtest.schedule import planned_request, start_times_s

    _, records, plan = replay
    moved = plan.model_copy(update={"nonce": plan.nonce + 1, "url": "http://elsewhere:1"})
    for segment in moved.segments:
        mine = [r for r in records if r.block == segment.block]
        assert len(start_times_s(moved, segment)) == len(mine)
        again = [planned_request(moved, segment, r.index) for r in mine]
        assert [(a.prompt_tokens, a.output_tokens) for a in again] == [
            (r.asked_prompt_tokens, r.asked_output_tokens) for r in mine
        ]


def test_conversations_are_asked_of_the_chat_endpoint(simulator: tuple[str, int], ask: Ask, tmp_path: Path) -> None:
    rows = [{"turns": [f"Tell me about number {k}, please."]} for k in range(7)]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    workload = Workload(chat=ChatFile(path=str(tmp_path / "chat.jsonl")), output_tokens=6)
    request = ask(simulator[0], tmp_path / "run", models=("sim",), workload=workload, duration_s=0.8, blocks=1)
    manifest, records, plan = ran(request, quiet)
    assert manifest.arms[0].failures == 0
    assert {r.prompt_tokens for r in records} == {7}  # a salt and six words
    assert {(r.asked_prompt_tokens, r.output_tokens) for r in records if not r.warmup} == {(None, 6)}
    assert all(len(r.event_s) == r.output_tokens for r in records)
    assert min(ttft_s(r)[0] for r in records) >= TTFT_S - 0.001  # its timers count whole milliseconds
    assert plan.conversations[3][0].content == "Tell me about number 3, please."
    assert manifest.workload.chat is not None
    assert manifest.workload.chat.sha256 is not None
    assert next(gate for gate in manifest.gates if gate.name == "length mismatch").passed


def test_a_mix_is_an_arm_whose_models_are_told_apart(
    serve: Callable[..., TruthServer], ask: Ask, tmp_path: Path
) -> None:
    server = serve(models={"a": Behaviour(0.01, 0.002), "b": Behaviour(0.01, 0.006)})
    mix = "a=0.5,b=0.5"
    request = ask(
        server.url,
        tmp_path / "run",
        models=(mix,),
        against="a",
        level=Level(arrivals=Poisson(rate_per_s=80)),
        duration_s=0.8,
        blocks=1,
    )
    manifest, records, _ = ran(request, quiet)
    assert [arm.model for arm in manifest.arms] == ["a", mix]
    assert [(m.arm, m.summary.model) for m in manifest.mixed] == [(1, "a"), (1, "b")]
    mixed = [r for r in records if r.arm == 1]
    assert {r.model for r in records if r.arm == 0} == {"a"}
    assert sum(r.model == "b" for r in mixed) / len(mixed) == pytest.approx(0.5, abs=0.2)
    assert [r.scheduled_s for r in mixed if r.warmup] != []
    asked = [body["model"] for body in server.bodies]
    assert asked.count("b") == sum(r.model == "b" for r in mixed)
    beside_alone = manifest.mixed[0].beside_alone
    assert beside_alone is not None
    assert beside_alone.ratios["speedup_tpot_p50"].value == pytest.approx(1, abs=0.1)
    assert set(manifest.served) == set(manifest.server_metrics) == {"a", "b"}
    (comparison,) = manifest.comparisons
    assert (comparison.model, comparison.against) == (mix, "a")
