"""Whole runs through Locust against a server whose times are known: what comes back must be the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from truth_server import Behaviour, TruthServer

from artifacts.measures import inter_token_latencies_s, ttft_s
from artifacts.run import Level, RequestRecord, RunManifest, load_run, read_requests
from loadtest.plan import Plan
from loadtest.runner import METRICS_NAMES, LoadTestRequest, run_load_test
from loadtest.summary import compare_arms, summarise_arms

Serve = Callable[..., TruthServer]
Ask = Callable[..., LoadTestRequest]

TTFT_S, ITL_S, STREAMS, TOKENS = 0.02, 0.006, 3, 12


@dataclass
class Ran:
    server: TruthServer
    folder: Path
    manifest: RunManifest
    records: list[RequestRecord]
    heard: list[tuple[str, float, float]]


@pytest.fixture(scope="module")
def pair(serve: Serve, ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`slow` has twice the inter-token latency of `quick` and the same time to first token."""
    server = serve(models={"quick": Behaviour(TTFT_S, ITL_S), "slow": Behaviour(TTFT_S, 2 * ITL_S)})
    folder = tmp_path_factory.mktemp("pair") / "run"
    request = ask(
        server.url,
        folder,
        models=("slow",),
        against="quick",
        level=Level(concurrency=STREAMS),
        output_tokens=TOKENS,
        duration_s=2.4,
        blocks=4,
        warmup_s=0.15,
    )
    heard: list[tuple[str, float, float]] = []
    manifest = run_load_test(request, lambda *step: heard.append(step))
    return Ran(server, folder, manifest, read_requests(folder / "requests.parquet"), heard)


def counted(ran: Ran, model: str) -> list[RequestRecord]:
    return [r for r in ran.records if r.model == model and not r.warmup]


@pytest.mark.parametrize(("model", "itl_s"), [("quick", ITL_S), ("slow", 2 * ITL_S)])
def test_latencies_are_recovered(pair: Ran, model: str, itl_s: float) -> None:
    records = counted(pair, model)
    first = [v for r in records for v in ttft_s(r)]
    gaps = [v for r in records for v in inter_token_latencies_s(r)]
    assert np.median(first) == pytest.approx(TTFT_S, abs=0.004)
    assert min(first) >= TTFT_S
    assert np.mean(gaps) == pytest.approx(itl_s, rel=0.05)


@pytest.mark.parametrize(("arm", "itl_s"), [(0, ITL_S), (1, 2 * ITL_S)])
def test_throughput_is_recovered(pair: Ran, arm: int, itl_s: float) -> None:
    truth = STREAMS * TOKENS / (TTFT_S + (TOKENS - 1) * itl_s)
    measured = pair.manifest.arms[arm].measures
    assert measured["output_tokens_per_s"] == pytest.approx(truth, rel=0.1)
    assert measured["requests_per_s"] == pytest.approx(truth / TOKENS, rel=0.15)


def test_twice_the_inter_token_latency_is_half_the_speed(pair: Ran) -> None:
    (comparison,) = pair.manifest.comparisons
    tpot = comparison.ratios["speedup_tpot_p50"]
    assert (comparison.model, comparison.against, tpot.n) == ("slow", "quick", 4)
    assert tpot.value == pytest.approx(0.5, rel=0.03)
    assert tpot.low is not None
    assert tpot.high is not None
    assert tpot.low <= 0.51
    assert tpot.high >= 0.49
    assert comparison.ratios["speedup_ttft_p50"].value == pytest.approx(1, rel=0.15)
    total = (TTFT_S + (TOKENS - 1) * ITL_S) / (TTFT_S + (TOKENS - 1) * 2 * ITL_S)
    assert comparison.ratios["speedup_e2e_p50"].value == pytest.approx(total, rel=0.05)
    assert comparison.ratios["speedup_output_tokens_per_s"].value == pytest.approx(total, rel=0.05)


def test_arms_were_played_in_mirrored_order_without_overlap(pair: Ran) -> None:
    windows = pair.manifest.windows
    assert [w.arm for w in windows] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert all(later.start_s > earlier.end_s for earlier, later in itertools.pairwise(windows))
    assert sum(w.end_s - w.start_s for w in windows if w.arm == 0) == pytest.approx(2.4)
    for window in windows:
        inside = [r for r in pair.records if (r.arm, r.block) == (window.arm, window.block) and not r.warmup]
        assert all(window.start_s <= r.scheduled_s < window.end_s for r in inside)


def test_every_recorded_request_reached_the_server_with_its_prompt(pair: Ran) -> None:
    assert len(pair.server.bodies) == len(pair.records)
    prompts = [tuple(body["prompt"]) for body in pair.server.bodies]
    assert len(set(prompts)) == len(prompts)
    assert {len(p) for p in prompts} == {16}


def test_both_arms_of_a_block_got_the_same_prompts_but_for_the_salt(pair: Ran) -> None:
    tails: dict[str, set[tuple[int, ...]]] = {"quick": set(), "slow": set()}
    for body in pair.server.bodies:
        tails[body["model"]].add(tuple(body["prompt"][4:]))
    assert tails["slow"] < tails["quick"]  # the slower arm got less far into the same sequence


def test_the_run_is_valid_and_the_server_counted_what_the_client_did(pair: Ran) -> None:
    assert {g.name: g.observed for g in pair.manifest.gates if not g.passed} == {}
    assert pair.manifest.valid
    counters = pair.manifest.server_metrics["quick"]
    assert counters["vllm:prompt_tokens_total"] == 16 * sum(r.arm == 0 for r in pair.records)
    assert counters["vllm:generation_tokens_total"] == sum(r.output_tokens or 0 for r in pair.records if r.arm == 0)


def test_figures_can_be_recomputed_from_the_files_alone(pair: Ran) -> None:
    manifest = load_run(pair.folder)
    assert manifest == pair.manifest
    arms = tuple(summary.model for summary in manifest.arms)
    assert summarise_arms(arms, pair.records, manifest.windows, manifest.served) == manifest.arms
    assert compare_arms(arms, pair.records, manifest.windows) == manifest.comparisons


def test_the_run_directory_is_complete(pair: Ran) -> None:
    names = {path.name for path in pair.folder.iterdir()}
    assert names == {"run.json", "requests.parquet", "plan.json", *METRICS_NAMES}
    assert "vllm:prompt_tokens_total" in (pair.folder / METRICS_NAMES[1]).read_text()
    assert Plan.load(pair.folder / "plan.json").arms == ("quick", "slow")
    assert pair.manifest.arms[0].fingerprint == "f00d"


def test_progress_rises_to_the_end(pair: Ran) -> None:
    done = [step[1] for step in pair.heard]
    assert {step[0] for step in pair.heard} == {f"load concurrency {STREAMS}"}
    assert done == sorted(done)
    assert pair.heard[-1][1] == pair.heard[-1][2] == pytest.approx(2 * 4 * (0.6 + 0.15))
    assert len(done) > 5


def test_percentiles_below_their_sample_size_are_null(pair: Ran) -> None:
    measures = pair.manifest.arms[1].measures
    assert measures["ttft_p50_s"] is not None
    assert measures["ttft_p99_s"] is None


@pytest.fixture(scope="module")
def stalled(serve: Serve, ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Open loop at 40 requests/s; after 30 requests the server does nothing for one second."""
    server = serve(models={"a": Behaviour(0.01, 0.002, stall=(30, 1.0))}, with_metrics=False)
    folder = tmp_path_factory.mktemp("stalled") / "run"
    level = Level(rate_per_s=40, arrivals="constant")
    manifest = run_load_test(ask(server.url, folder, level=level, duration_s=2.5, blocks=1, warmup_s=0.25))
    return Ran(server, folder, manifest, read_requests(folder / "requests.parquet"), [])


def test_the_open_loop_sends_on_time_whatever_the_server_does(stalled: Ran) -> None:
    scheduled = np.array([r.scheduled_s for r in stalled.records])
    assert len(scheduled) == 40 * 2.75
    assert np.diff(scheduled) == pytest.approx(1 / 40, abs=1e-6)
    late = [r.sent_s - r.scheduled_s for r in stalled.records if r.sent_s is not None]
    assert len(late) == len(scheduled)
    assert np.percentile(late, 90) < 0.01


def test_a_stall_shows_in_the_latency_of_all_who_would_have_been_served(stalled: Ran) -> None:
    """A one-second stall meets 40 scheduled requests, whose waits fall evenly from 1 s to 0: no omission."""
    waits = sorted((v for r in stalled.records for v in ttft_s(r)), reverse=True)[:40]
    assert waits[0] == pytest.approx(1.01, abs=0.05)
    assert np.mean(waits) == pytest.approx(0.51, abs=0.05)
    assert waits[20] == pytest.approx(0.51, abs=0.06)


def test_a_server_without_metrics_leaves_empty_snapshots_and_open_gates(stalled: Ran) -> None:
    assert stalled.manifest.server_metrics == {}
    assert [(stalled.folder / name).read_text() for name in METRICS_NAMES] == ["", ""]
    assert {g.name: g.observed for g in stalled.manifest.gates}["preemptions"] is None
    assert stalled.manifest.comparisons == ()
