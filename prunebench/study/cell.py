"""One cell, measured: its checkpoint is made, its losses, accuracies and speeds are taken, and it is put away again.

Everything runs in the calling process, because importing PyTorch and Transformers takes longer than a small cell: a
worker process takes many cells. What a user could mend becomes a record of a failed cell. Anything else ends the
process, and whoever started it records that.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts.errors import PrunebenchError
from artifacts.hardware import Hardware
from artifacts.progress import Progress
from artifacts.provenance import collect_provenance
from artifacts.study import AccuracyOn, CellRecord, LossOn, PaperSpeed, ServingSpeed, SpeedAt
from compressors.quality import EvaluationRequest, evaluate
from compressors.tasks import TaskRequest, TaskResult, evaluate_tasks
from prunebench.study.ceilings import hardware_here
from prunebench.study.checkpoints import Checkpoint, Place, make_checkpoint, open_base
from prunebench.study.job import CellJob
from prunebench.study.served import Served
from prunebench.study.speeds import paper_speeds, serving_speeds


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@dataclass(slots=True)
class Stages:
    """Where the time went: `with stages.of("compress"):`. Processor time is the process's and its ended children's."""

    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    start_s: float = field(default_factory=time.monotonic)
    start_processor_s: float = field(default_factory=_processor_s)
    spent_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[stage] = self.spent_s.get(stage, 0.0) + time.monotonic() - start_s

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.start_s

    @property
    def processor_s(self) -> float:
        return _processor_s() - self.start_processor_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one checkpoint gave."""

    losses: tuple[LossOn, ...] = ()
    accuracies: tuple[AccuracyOn, ...] = ()
    speeds: tuple[SpeedAt, ...] = ()
    hardware: Hardware | None = None
    left_out: tuple[str, ...] = ()


def measure_cell(job: CellJob, progress: Progress) -> CellRecord:
    """The record, whether measuring succeeded or was refused with a PrunebenchError."""
    stages, place = Stages(), Place.of(job.plan, Path(job.folder), Path(job.scratch))
    try:
        base = open_base(place)
        try:
            made = make_checkpoint(place, base, stages.of, progress)
            measured = _measure(job, place, base, made, stages, progress)
        finally:
            place.clear(keeps_compressed=job.keeps_checkpoint)
    except PrunebenchError as error:
        return CellRecord(
            **job.identity, status="failed", error=str(error), **_when(stages), provenance=collect_provenance()
        )
    return CellRecord(
        **job.identity,
        status="done",
        ratios=made.ratios,
        losses=measured.losses,
        accuracies=measured.accuracies,
        speeds=measured.speeds,
        hardware=measured.hardware,
        left_out=measured.left_out,
        params=made.params,
        base_params=base.params,
        **_when(stages),
        provenance=collect_provenance(),
    )


def _when(stages: Stages) -> dict[str, Any]:
    spent = {stage: round(seconds, 3) for stage, seconds in stages.spent_s.items()}
    return {
        "started_at": stages.started_at,
        "wall_s": round(stages.wall_s, 3),
        "processor_s": round(stages.processor_s, 3),
        "stages_s": spent,
    }


def _measure(
    job: CellJob, place: Place, base: Checkpoint, made: Checkpoint, stages: Stages, progress: Progress
) -> Measured:
    with stages.of("evaluate"):
        losses = tuple(_loss(job, place, base, made, progress, index) for index in range(len(job.plan.texts)))
    with stages.of("tasks"):
        accuracies = _accuracies(job, place, made, progress)
    measured = Measured(losses=losses, accuracies=accuracies)
    serving = [speed for speed in job.plan.speeds if isinstance(speed, ServingSpeed)]
    if serving:
        measured = _served(serving, job, place, Served(base=base, made=made), stages, progress)
        measured = replace(measured, losses=losses, accuracies=accuracies)
    # Last, for a cell that is killed keeps what was served and nothing of this.
    speeds = list(measured.speeds)
    for paper in (speed for speed in job.plan.speeds if isinstance(speed, PaperSpeed)):
        with stages.of("paper"):
            speeds += paper_speeds(paper, place, base, made, progress)
    return replace(measured, speeds=tuple(speeds))


def _served(
    speeds: list[ServingSpeed], job: CellJob, place: Place, served: Served, stages: Stages, progress: Progress
) -> Measured:
    with stages.of("hardware"):
        hardware = hardware_here(place.device, served.base.footprint.weights_bytes)
    with stages.of(serving_stage(Path(job.raw))):
        known = replace(served, hardware=hardware)
        rows, left_out = serving_speeds(speeds, place, known, Path(job.raw), progress)
    return Measured(speeds=tuple(rows), hardware=hardware, left_out=left_out)


def serving_stage(raw: Path) -> str:
    """Its time is a price for other cells only where nothing had been measured before."""
    return "serving, gone on with" if raw.is_dir() and any(raw.iterdir()) else "serving"


def _loss(job: CellJob, place: Place, base: Checkpoint, made: Checkpoint, progress: Progress, index: int) -> LossOn:
    text = job.plan.texts[index]
    is_compared = text.divergence and job.base is not None
    found = evaluate(
        EvaluationRequest(
            model=made.folder,
            text=place.text(text.text),
            reference=base.folder if is_compared else None,
            length_tokens=text.length_tokens,
            max_tokens=text.max_tokens,
            device=place.device,
        ),
        progress,
    )
    dense = None if job.base is None else job.base.losses[index].loss_nats
    return LossOn(
        set=text.set,
        loss_nats=found.loss_nats,
        base_loss_nats=found.loss_nats if dense is None else dense,
        tokens=found.tokens,
        standard_error_nats=found.standard_error_nats,
        kl_nats=found.kl_nats,
        js_nats=found.js_nats,
    )


def _accuracies(job: CellJob, place: Place, made: Checkpoint, progress: Progress) -> tuple[AccuracyOn, ...]:
    accuracies = []
    for index, asked in enumerate(job.plan.tasks):
        request = TaskRequest(
            model=made.folder, tasks=(place.task(asked.source),), limit=asked.limit, device=place.device
        )
        result = evaluate_tasks(request, progress)[0]
        value = _score(result)
        dense = value if job.base is None else job.base.accuracies[index].accuracy
        accuracies.append(AccuracyOn(task=asked.task, accuracy=value, base_accuracy=dense, items=result.questions))
    return tuple(accuracies)


def _score(result: TaskResult) -> float:
    """Plain accuracy where the task has it, else what it names first."""
    return result.scores["acc"].value if "acc" in result.scores else next(iter(result.scores.values())).value
