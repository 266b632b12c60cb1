"""Which of a comparison's levels are measured already? An earlier attempt's run counts if it is what would be made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from artifacts.errors import PrunebenchError
from artifacts.run import Level, RunManifest, load_run
from loadtest.runner import LoadTestRequest


def level_folder(level: Level) -> str:
    """A folder name, as in `concurrency-4`."""
    return level.label.replace(",", "").replace("/", "-per-").replace(" ", "-")


def measured_already(request: LoadTestRequest, fingerprints: Mapping[str, str | None]) -> RunManifest | None:
    """The run at `request.out` if it is valid, was asked the same, and measured the models with these fingerprints."""
    run = _run_at(request.out)
    if run is None or not run.valid:
        return None
    asked = (run.level, run.workload, run.duration_s, run.blocks, run.warmup_s)
    wanted = (request.level, request.workload, request.duration_s, request.blocks, request.warmup_s)
    same_arms = [(arm.model, arm.fingerprint) for arm in run.arms] == [(m, fingerprints.get(m)) for m in request.arms]
    return run if asked == wanted and same_arms else None


def _run_at(folder: Path) -> RunManifest | None:
    try:
        return load_run(folder)
    except PrunebenchError:
        return None
