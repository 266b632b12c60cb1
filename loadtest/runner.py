"""A load test from question to run directory: checks, plan, play, gates, summary, comparison, files.

Nothing is written under the final name until all of it is there.
"""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from artifacts.files import complete_directory, require_free_name
from artifacts.progress import Progress, silent
from artifacts.provenance import collect_provenance
from artifacts.run import (
    REQUESTS_NAME,
    RUN_NAME,
    Design,
    Level,
    RequestRecord,
    RunManifest,
    Workload,
    write_requests,
)
from loadtest.counters import counter_increase
from loadtest.endpoint import Endpoint, require_models
from loadtest.gates import Evidence, events_per_read, judge, loop_lag_p99_s
from loadtest.plan import Outcome, Plan
from loadtest.player import play, terminate_like_interrupt
from loadtest.protocol import PLAN_NAME
from loadtest.stationarity import littles_law, steadiness
from loadtest.summary import compare_arms, summarise_arms

METRICS_NAMES = ("metrics_before.txt", "metrics_after.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestRequest:
    """What to measure. `duration_s` is the measured time of each arm, all blocks together.

    `against` may also stand in `models`: a control of a model against itself, whose interval is the noise floor.
    `design` is kept with the result: what the run was expected to be able to show.
    `warmup_s` of load precede each arm's window in each block and are not counted.
    """

    url: str
    models: tuple[str, ...]
    against: str | None
    level: Level
    workload: Workload
    duration_s: float
    out: Path
    blocks: int = 8
    warmup_s: float = 1.0
    api_key: str | None = None
    timeout_s: float = 120.0
    token_range: tuple[int, int] = (3, 500)
    design: Design | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        return self.models if self.against is None else (self.against, *self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    """What came of a plan: everything that the manifest is made from."""

    plan: Plan
    records: list[RequestRecord]
    outcome: Outcome
    served: dict[str, dict[str, Any]]
    snapshots: tuple[str | None, str | None]


def run_load_test(request: LoadTestRequest, progress: Progress = silent) -> RunManifest:
    """Runs the test and writes `request.out`; a failed gate makes the manifest's `valid` false, not an error.

    Raises LoadTestError (unreachable server, unknown model, lengths beyond the model, Locust failing) and ConfigError
    (options out of range, `out` exists, disk full), both before or without writing anything. SIGINT and SIGTERM (as
    KeyboardInterrupt) stop Locust and leave nothing.
    """
    with terminate_like_interrupt():
        require_free_name(request.out)
        played = _play(request, make_plan(request), progress)
        manifest = _manifest(request, played)
        _write(request.out, manifest, played)
    return manifest


def _play(request: LoadTestRequest, plan: Plan, progress: Progress) -> _Played:
    endpoint = Endpoint(plan.url, request.api_key)
    served = endpoint.models()
    require_models(served, plan.arms, plan.workload.prompt_tokens + plan.workload.output_tokens)
    with tempfile.TemporaryDirectory(prefix="prunebench-load-") as folder:
        before = endpoint.metrics()
        records, outcome = play(plan, Path(folder), request.api_key, f"load {plan.level.label}", progress)
        snapshots = (before, endpoint.metrics())
    return _Played(plan=plan, records=records, outcome=outcome, served=served, snapshots=snapshots)


def make_plan(request: LoadTestRequest) -> Plan:
    """Draws the nonce and checks the numbers. Raises ConfigError naming the first that is out of range."""
    if not request.models or len(set(request.models)) != len(request.models):
        raise ConfigError(f"models must be one or more distinct names, not {', '.join(request.models) or 'none'}.")
    return Plan.parse(
        {
            "url": Endpoint(request.url).url,
            "arms": request.arms,
            "level": request.level.model_dump(),
            "workload": request.workload.model_dump(),
            "blocks": request.blocks,
            "window_s": request.duration_s / max(1, request.blocks),
            "lead_in_s": request.warmup_s,
            "timeout_s": request.timeout_s,
            "token_range": request.token_range,
            "nonce": secrets.randbits(48),
        },
        "the load test",
    )


def _manifest(request: LoadTestRequest, played: _Played) -> RunManifest:
    arms, records, windows = played.plan.arms, played.records, played.outcome.windows
    evidence = Evidence(
        records=records,
        windows=windows,
        workload=request.workload,
        client_cpu_s=played.outcome.client_cpu_s,
        counters=counter_increase(*played.snapshots, arms),
        level=request.level,
        loop_lags_s=played.outcome.loop_lags_s,
    )
    return RunManifest(
        url=played.plan.url,
        models=request.models,
        against=request.against,
        level=request.level,
        workload=request.workload,
        duration_s=request.duration_s,
        blocks=request.blocks,
        warmup_s=request.warmup_s,
        gates=judge(evidence),
        arms=summarise_arms(arms, records, windows, played.served),
        comparisons=() if request.against is None else compare_arms(arms, records, windows),
        windows=windows,
        design=request.design,
        steadiness=steadiness(records, windows),
        littles_law=littles_law(records, windows),
        server_metrics=evidence.counters,
        client=_client_figures(evidence, played.outcome),
        served={model: played.served[model] for model in arms},
        provenance=collect_provenance(),
    )


def _client_figures(evidence: Evidence, outcome: Outcome) -> dict[str, float]:
    events = sum(len(r.event_s) for r in evidence.successes)
    tokens = sum(r.output_tokens or 0 for r in evidence.successes)
    return {
        "cpu_s": outcome.client_cpu_s,
        "served_first": float(outcome.served_first),
        "loop_lag_p99_s": loop_lag_p99_s(evidence) or 0.0,
        "reads": float(sum(r.reads for r in evidence.successes)),
        "events": float(events),
        "events_per_read": events_per_read(evidence) or 0.0,
        "tokens_per_event": tokens / events if events else 0.0,
    }


def _write(out: Path, manifest: RunManifest, played: _Played) -> None:
    with complete_directory(out) as folder:
        write_requests(folder / REQUESTS_NAME, played.records)
        played.plan.save(folder / PLAN_NAME)
        for name, text in zip(METRICS_NAMES, played.snapshots, strict=True):
            (folder / name).write_text(text or "", encoding="utf-8")
        manifest.save(folder / RUN_NAME)
