"""Throughput against interactivity: all variants at each level in one paired run, then their fronts.

Each level is an ordinary run directory. Finished ones are kept in an unfinished folder, so that the same request after
a kill goes on with the first level that is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.files import complete_directory
from artifacts.progress import Progress, silent
from artifacts.provenance import collect_provenance
from artifacts.run import (
    REQUESTS_NAME,
    RUN_NAME,
    Level,
    RequestRecord,
    RunManifest,
    Workload,
    load_run,
    read_requests,
)
from artifacts.slo import Slo
from artifacts.sweep import (
    LEVELS_NAME,
    SWEEP_NAME,
    Dominance,
    DominanceArea,
    Sweep,
    SweepPoint,
    SweptVariant,
)
from artifacts.unfinished import key_of, remove_working_folder, working_folder
from loadtest.attainment import goodput_per_s
from loadtest.endpoint import Endpoint, require_models
from loadtest.looks import OUTCOMES
from loadtest.pairing import block_speeds
from loadtest.pareto import front_areas, on_front
from loadtest.player import terminate_like_interrupt
from loadtest.runner import LoadTestRequest, run_load_test
from loadtest.saturation import Play

_STAGE = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """What to sweep. `duration_s` is the measured time of each variant at each level, all blocks together."""

    url: str
    models: tuple[str, ...]
    levels: tuple[Level, ...]
    workload: Workload
    out: Path
    duration_s: float
    blocks: int = 4
    warmup_s: float = 1.0
    slo: Slo | None = None
    timeout_s: float = 120.0
    api_key: str | None = None
    token_range: tuple[int, int] = (3, 500)


def run_sweep(request: SweepRequest, progress: Progress = silent, play: Play = run_load_test) -> Sweep:
    """Plays every level and writes `request.out`: `sweep.json` and a run directory per level.

    Raises ConfigError (numbers out of range, `out` exists) and LoadTestError (server, Locust); finished levels stay.
    """
    if len(set(request.levels)) != len(request.levels) or not request.levels:
        raise ConfigError("The levels must be one or more, each given once. Correct the list.")
    with terminate_like_interrupt():
        served = Endpoint(request.url, request.api_key).models()
        require_models(served, request.models, 0)  # lengths are checked by the first level
        weights = {model: served[model].get("prunebench", {}).get("fingerprint") for model in request.models}
        with working_folder(request.out, key_of([_decisive(request), weights])) as folder:
            manifests = [_level(request, folder, number, progress, play) for number in range(len(request.levels))]
            records = [read_requests(folder / _place(number) / REQUESTS_NAME) for number in range(len(manifests))]
            result = _document(request, manifests, records)
            with complete_directory(request.out) as complete:
                result.save(complete / SWEEP_NAME)
                shutil.copytree(folder / LEVELS_NAME, complete / LEVELS_NAME)
            remove_working_folder(folder)
    return result


def _decisive(request: SweepRequest) -> list[object]:
    documents = [d.model_dump() for d in (*request.levels, request.workload)]
    times = [request.duration_s, request.warmup_s, request.timeout_s]
    return [request.url, request.models, *documents, request.blocks, *times, request.token_range]


def _place(number: int) -> str:
    return f"{LEVELS_NAME}/{number:02d}"


def _level(request: SweepRequest, folder: Path, number: int, progress: Progress, play: Play) -> RunManifest:
    if (folder / _place(number) / RUN_NAME).is_file():
        return load_run(folder / _place(number))
    first, *others = request.models
    asked = LoadTestRequest(
        url=request.url,
        models=tuple(others) or (first,),
        against=first if others else None,
        level=request.levels[number],
        workload=request.workload,
        duration_s=request.duration_s,
        out=folder / _place(number),
        blocks=request.blocks,
        warmup_s=request.warmup_s,
        api_key=request.api_key,
        timeout_s=request.timeout_s,
        token_range=request.token_range,
    )
    return play(asked, partial(_tell, progress, number, len(request.levels)))


def _tell(progress: Progress, number: int, levels: int, stage: str, done: float, total: float) -> None:
    progress(_STAGE, number + (done / total if total else 1), levels)


def _document(
    request: SweepRequest, manifests: Sequence[RunManifest], records: Sequence[Sequence[RequestRecord]]
) -> Sweep:
    variants = tuple(
        SweptVariant(
            model=model,
            fingerprint=manifests[0].arms[arm].fingerprint,
            points=_with_front([_point(request, arm, n, m, records[n]) for n, m in enumerate(manifests)]),
        )
        for arm, model in enumerate(request.models)
    )
    return Sweep(
        url=request.url,
        slo=request.slo,
        workload=request.workload,
        duration_s=request.duration_s,
        blocks=request.blocks,
        warmup_s=request.warmup_s,
        variants=variants,
        comparisons=tuple(m.comparisons for m in manifests),
        dominance=tuple(dominance(other, variants[0]) for other in variants[1:]),
        provenance=collect_provenance(),
    )


def _point(
    request: SweepRequest, arm: int, number: int, manifest: RunManifest, records: Sequence[RequestRecord]
) -> SweepPoint:
    windows = sorted((w for w in manifest.windows if w.arm == arm), key=lambda w: w.block)
    of_arm = [r for r in records if r.arm == arm]
    blocks = [block_speeds([r for r in of_arm if r.block == w.block], w) for w in windows]
    measures = manifest.arms[arm].measures
    tpot_s = measures["tpot_p50_s"]
    failed = tuple(gate for gate in manifest.gates if not gate.passed)
    return SweepPoint(
        level=request.levels[number],
        folder=_place(number),
        valid=all(gate.name in OUTCOMES for gate in failed),
        failed_gates=failed,
        output_tokens_per_s=measures["output_tokens_per_s"],
        output_tokens_per_s_per_user=1 / tpot_s if tpot_s else None,
        block_output_tokens_per_s=_each(blocks, "speedup_output_tokens_per_s"),
        block_output_tokens_per_s_per_user=_each(blocks, "speedup_tpot_p50"),
        goodput_per_s=None if request.slo is None else goodput_per_s(request.slo, of_arm, windows),
        measures=measures,
        on_front=False,
    )


def _each(blocks: Sequence[dict[str, float]], name: str) -> tuple[float, ...]:
    return tuple(block[name] for block in blocks if name in block)


def _with_front(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    flags = on_front([point.place for point in points])
    return tuple(p.model_copy(update={"on_front": flag}) for p, flag in zip(points, flags, strict=True))


def dominance(variant: SweptVariant, against: SweptVariant) -> Dominance:
    """Where which of the two fronts is higher."""
    ours, theirs = ([p.place for p in v.points if p.place is not None] for v in (variant, against))
    winners = {1: variant.model, -1: against.model, 0: None}
    return Dominance(
        model=variant.model,
        against=against.model,
        areas=tuple(
            DominanceArea(from_per_user=a.start, to_per_user=a.end, winner=winners[a.sign], ratio=a.ratio)
            for a in front_areas(ours, theirs)
        ),
    )
