"""One load test from the command line: run it, say what was wrong with it, print what it gave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.arrivals import Steps
from artifacts.run import Level, RunManifest
from loadtest.design import describe, design_of_run
from loadtest.plan import Plan
from loadtest.runner import LoadTestRequest, run_load_test
from prunebench.calibration import calibrate_for
from prunebench.ceiling import show_card, show_reached
from prunebench.comparing import explain
from prunebench.console import note, print_result, show_progress

_DEFAULT_DURATION_S = 60.0
_SHOWN: dict[str, Any] = {"arms": True, "comparisons": True, "mixed": True, "energy": {"meters", "arms"}}


def default_duration_s(level: Level, blocks: int) -> float:
    """Measured seconds per arm: every block plays all steps."""
    return level.arrivals.total_s * blocks if isinstance(level.arrivals, Steps) else _DEFAULT_DURATION_S


def measure_load(
    request: LoadTestRequest, calibrated: bool = False, hardware_file: Path | None = None, pilot: Path | None = None
) -> bool:
    """Says what can be shown, runs, prints; False if the run is not valid. `calibrated`: before and after it."""
    hardware = show_card(hardware_file, request.url, request.arms, (request.level,), request.workload)
    if request.against is not None:
        design = design_of_run(request.blocks, pilot)
        request = replace(request, design=design)
        note(describe(design))
    with show_progress() as progress:
        run = run_load_test(request, progress, calibration_error_s if calibrated else None)
    for remark in remarks(run):
        note(remark)
    show_reached(hardware, (request.out,))
    shown = run.model_dump(include=_SHOWN)
    print_result({"out": str(request.out), "valid": run.valid, **shown})
    return run.valid


def calibration_error_s(plan: Plan) -> float:
    """Of the median inter-token latency, under the plan's own load."""
    return calibrate_for(plan).itl_p50_error_s


def remarks(run: RunManifest) -> list[str]:
    """What a reader of the numbers must know: failed gates, cut lengths, answers of different length."""
    said = [f"not valid: {explain(gate)}" for gate in run.gates if not gate.passed]
    if run.clipped_requests:
        said.append(
            f"{run.clipped_requests} requests were longer than a context of {run.context_tokens} tokens and were cut. "
            "Lower --length-scale, or the lengths, to keep their spread."
        )
    if run.energy is not None and run.energy.meters == "forbidden":
        said.append("Energy was not read: this user may not read the processor's counters. Run as root to have it.")
    if run.workload.natural_ends:
        said.append("Answers ended where the models ended them: a ratio of latencies or tokens/s is not of equal work.")
    return said
