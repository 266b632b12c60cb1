"""A load test from question to run directory: checks, plan, play, gates, summary, comparison, files.

Nothing is written under the final name until all of it is there.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.arrivals import Replay
from artifacts.errors import ConfigError
from artifacts.files import complete_directory, require_free_name, sha256_of_file
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
from artifacts.traffic import TraceSource
from loadtest.conversations import read_conversations
from loadtest.counters import counter_increase
from loadtest.endpoint import Endpoint, require_models, served_here
from loadtest.energy import summarise_energy
from loadtest.gates import Evidence, events_per_read, judge, loop_lag_p99_s
from loadtest.hardware_gates import hardware_gates
from loadtest.lengths import lengths_of, longest_request_tokens
from loadtest.mix import models_of
from loadtest.mixed import summarise_mixes
from loadtest.plan import Outcome, Plan
from loadtest.player import play, terminate_like_interrupt
from loadtest.protocol import PLAN_NAME
from loadtest.replay import replayed
from loadtest.stationarity import littles_law, steadiness
from loadtest.summary import compare_arms, summarise_arms

METRICS_NAMES = ("metrics_before.txt", "metrics_after.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestRequest:
    """What to measure. `duration_s` is the measured time of each arm, all blocks together.

    `against` may also stand in `models`: a control of a model against itself, whose interval is the noise floor.
    `design` is kept with the result: what the run was expected to be able to show.
    `warmup_s` of load precede each arm's window in each block and are not counted. A model may be a mix of several
    (`a=0.9,b=0.1`), which is an arm of its own. `trace` holds the times or lengths that level or workload say are a
    trace's. Lengths that have no bound are cut to the models' context, or to `context_tokens` if that is less.
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
    trace: TraceSource | None = None
    context_tokens: int | None = None
    client_processes: int = 1
    stop_on: str = ""
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
    calibration_s: tuple[float, float] | None


def run_load_test(
    request: LoadTestRequest, progress: Progress = silent, calibrate: Callable[[Plan], float] | None = None
) -> RunManifest:
    """Runs the test and writes `request.out`; a failed gate makes the manifest's `valid` false, not an error.

    `calibrate` measures by how much the client errs under this load (s); it is asked just before and just after.

    Raises LoadTestError (unreachable server, unknown model, lengths beyond the model, Locust failing) and ConfigError
    (options out of range, `out` exists, disk full), both before or without writing anything. SIGINT and SIGTERM (as
    KeyboardInterrupt) stop Locust and leave nothing.
    """
    with terminate_like_interrupt():
        require_free_name(request.out)
        played = _play(request, make_plan(request), progress, calibrate)
        manifest = _manifest(request, played)
        _write(request.out, manifest, played)
    return manifest


def _play(
    request: LoadTestRequest, plan: Plan, progress: Progress, calibrate: Callable[[Plan], float] | None
) -> _Played:
    endpoint = Endpoint(plan.url, request.api_key)
    served = endpoint.models()
    context_tokens = require_models(served, models_of(plan.arms), longest_request_tokens(plan.workload))
    plan = _fitted(plan, context_tokens, served_here(plan.url, served, models_of(plan.arms)))
    errors_s = [calibrate(plan)] if calibrate else []
    with tempfile.TemporaryDirectory(prefix="prunebench-load-") as folder:
        before = endpoint.metrics()
        records, outcome = play(plan, Path(folder), request.api_key, f"load {plan.level.label}", progress)
        snapshots = (before, endpoint.metrics())
    calibration_s = (errors_s[0], calibrate(plan)) if calibrate else None
    return _Played(
        plan=plan, records=records, outcome=outcome, served=served, snapshots=snapshots, calibration_s=calibration_s
    )


def make_plan(request: LoadTestRequest) -> Plan:
    """Draws the nonce and checks the numbers. Raises ConfigError naming the first that is out of range."""
    if not request.models or len(set(request.models)) != len(request.models):
        raise ConfigError(f"models must be one or more distinct names, not {', '.join(request.models) or 'none'}.")
    models_of(request.arms)
    window_s = request.duration_s / max(1, request.blocks)
    values = {
        "url": Endpoint(request.url).url,
        "arms": request.arms,
        "level": request.level,
        "workload": request.workload,
        "blocks": request.blocks,
        "window_s": window_s,
        "lead_in_s": request.warmup_s,
        "timeout_s": request.timeout_s,
        "token_range": request.token_range,
        "nonce": secrets.randbits(48),
        "context_tokens": request.context_tokens,
        "client_processes": request.client_processes,
        "stop_on": request.stop_on,
    }
    return Plan.parse(values | _from_files(request, request.blocks * (window_s + request.warmup_s)), "the load test")


def _from_files(request: LoadTestRequest, run_s: float) -> dict[str, Any]:
    """What the plan takes from a trace or a chat file, so that nobody needs the files again."""
    found: dict[str, Any] = {}
    if request.trace is not None:
        times = isinstance(request.level.arrivals, Replay)
        if not times and not request.workload.uses_trace:
            raise ConfigError(
                "The trace has no effect: a load and both lengths are given. Leave --trace or one of them out."
            )
        found["trace"] = trace = replayed(request.trace, run_s if times else None)
        if times:
            found["level"] = Level(arrivals=Replay(rate_per_s=len(trace.times_s) / run_s))
    if (chat := request.workload.chat) is not None:
        path = Path(chat.path)
        found["conversations"] = read_conversations(path)
        hashed = chat.model_copy(update={"sha256": sha256_of_file(path)})
        found["workload"] = request.workload.model_copy(update={"chat": hashed})
    return found


def _fitted(plan: Plan, served_tokens: int | None, here: bool) -> Plan:
    """The plan for models with that context, the shorter one if both are told, and on this machine or another."""
    told = [tokens for tokens in (plan.context_tokens, served_tokens) if tokens is not None]
    return plan.model_copy(update={"context_tokens": min(told, default=None), "served_here": here})


def _manifest(request: LoadTestRequest, played: _Played) -> RunManifest:
    plan, records, windows = played.plan, played.records, played.outcome.windows
    arms, models, energy = plan.arms, models_of(plan.arms), played.outcome.energy
    evidence = Evidence(
        records=records,
        windows=windows,
        workload=plan.workload,
        client_cpu_s=played.outcome.client_cpu_s,
        client_processes=plan.client_processes,
        counters=counter_increase(*played.snapshots, models),
        level=plan.level,
        loop_lags_s=played.outcome.loop_lags_s,
        calibration_s=played.calibration_s,
    )
    return RunManifest(
        url=plan.url,
        models=request.models,
        against=request.against,
        level=plan.level,
        workload=plan.workload,
        trace=plan.trace.source if plan.trace else None,
        context_tokens=plan.context_tokens,
        clipped_requests=sum(lengths_of(plan, r.block, r.index).clipped for r in records),
        duration_s=request.duration_s,
        blocks=request.blocks,
        warmup_s=request.warmup_s,
        gates=(*judge(evidence), *hardware_gates(energy)),
        arms=summarise_arms(arms, records, windows, played.served),
        comparisons=() if request.against is None else compare_arms(arms, records, windows, energy),
        windows=windows,
        design=request.design,
        steadiness=steadiness(records, windows),
        littles_law=littles_law(records, windows),
        energy=summarise_energy(energy, arms, records, windows),
        server_metrics=evidence.counters,
        client=_client_figures(evidence, played.outcome) | _calibration_figures(played.calibration_s),
        mixed=summarise_mixes(arms, records, windows, played.served),
        served={model: played.served[model] for model in models},
        provenance=collect_provenance(),
    )


def _client_figures(evidence: Evidence, outcome: Outcome) -> dict[str, float]:
    events = sum(len(r.event_s) for r in evidence.successes)
    tokens = sum(r.output_tokens or 0 for r in evidence.successes)
    return {
        "cpu_s": outcome.client_cpu_s,
        "processes": float(evidence.client_processes),
        "served_first": float(outcome.served_first),
        "loop_lag_p99_s": loop_lag_p99_s(evidence) or 0.0,
        "reads": float(sum(r.reads for r in evidence.successes)),
        "events": float(events),
        "events_per_read": events_per_read(evidence) or 0.0,
        "tokens_per_event": tokens / events if events else 0.0,
    }


def _calibration_figures(errors_s: tuple[float, float] | None) -> dict[str, float]:
    names = ("calibration_before_s", "calibration_after_s")
    return dict(zip(names, errors_s, strict=True)) if errors_s else {}


def _write(out: Path, manifest: RunManifest, played: _Played) -> None:
    with complete_directory(out) as folder:
        write_requests(folder / REQUESTS_NAME, played.records)
        played.plan.save(folder / PLAN_NAME)
        for name, text in zip(METRICS_NAMES, played.snapshots, strict=True):
            (folder / name).write_text(text or "", encoding="utf-8")
        manifest.save(folder / RUN_NAME)
