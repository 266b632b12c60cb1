"""A study from its file to its results: what is done stays done, what is left is measured, whoever measures it.

The working folder holds one file per finished cell, written under its name only when complete; everything else can be
derived from them or measured again. So a study goes on wherever and however it was stopped; a cell is measured once.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from artifacts.errors import ConfigError
from artifacts.files import disk_error
from artifacts.study import CellRecord, StudyFile, load_cells
from prunebench.study.agenda import Agenda, worth_keeping
from prunebench.study.job import CellJob, lost_record
from prunebench.study.parcel import raw_folder
from prunebench.study.plan import CellPlan, expand
from prunebench.study.results import write_results

FILE_NAME = "study.json"
_REDRAW_S = 0.5
_FORMER_WORKERS_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A study, its cells, and where its work stands."""

    file: StudyFile
    folder: Path
    out: Path
    plans: tuple[CellPlan, ...]

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def scratch(self) -> Path:
        return self.out / "scratch"

    @property
    def workers_lock(self) -> Path:
        return self.out / "workers.lock"

    def records(self) -> tuple[CellRecord, ...]:
        """Of this study's cells; those of cells that a change of the file has dropped are left out."""
        planned = {plan.cell for plan in self.plans}
        return tuple(record for record in load_cells(self.out) if record.cell in planned)

    def job(self, plan: CellPlan, agenda: Agenda, attempt: int) -> CellJob:
        return CellJob(
            plan=plan,
            folder=str(self.folder.resolve()),
            scratch=str(self.scratch.resolve()),
            raw=str(raw_folder(self.out, plan.cell).resolve()),
            base=agenda.base_of(plan),
            keeps_checkpoint=agenda.on_one_machine and not agenda.is_last_of_group(plan),
            attempt=attempt,
        )


class Backend(Protocol):
    """Who measures. `on_one_machine`: cells share the scratch folder and the cores."""

    on_one_machine: bool

    @property
    def slots(self) -> int:
        """How many cells may be under way at once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, job: CellJob) -> None: ...

    def next_record(self, timeout_s: float) -> CellRecord | None:
        """None if no cell has ended in time."""


class Watcher(Protocol):
    """Is told how the study stands: after every change, and now and then between."""

    def __call__(self, agenda: Agenda, ended: CellRecord | None) -> None: ...


def open_study(path: Path, out: Path | None = None, *, needs_texts: bool = True) -> OpenStudy:
    """`out` None is `STUDY.study` beside the file. Raises ConfigError for a file that is not there, or a text that is
    not although it is needed."""
    study = StudyFile.load(path)
    plans = expand(study, path.parent, needs_texts=needs_texts)
    return OpenStudy(file=study, folder=path.parent, out=out or path.with_suffix(".study"), plans=plans)


def run_study(
    study: OpenStudy, backend: Backend, watch: Watcher, *, retries_failed: bool = False, most_cells: int | None = None
) -> tuple[CellRecord, ...]:
    """Measures what is missing, at most `most_cells`, and returns all records.

    Raises ConfigError if another process runs this study, and what the backend raises; finished cells are kept.
    """
    with _held(study):
        found = study.records()
        attempts = {record.cell: record.attempts for record in found}
        kept = worth_keeping(study.plans, found, retries_failed=retries_failed)
        agenda = Agenda(study.plans, kept, backend.on_one_machine)
        study.file.save(study.out / FILE_NAME)
        watch(agenda, None)
        try:
            if not agenda.is_finished:
                _measure(study, backend, agenda, watch, attempts, most_cells)
            if agenda.is_finished:
                shutil.rmtree(study.scratch, ignore_errors=True)
        finally:
            write_results(study.records(), study.out)
    return study.records()


def _measure(
    study: OpenStudy,
    backend: Backend,
    agenda: Agenda,
    watch: Watcher,
    attempts: dict[str, int],
    most_cells: int | None,
) -> None:
    begun = 0
    with backend:
        while True:
            while len(agenda.running) < backend.slots and (most_cells is None or begun < most_cells):
                plan = agenda.take()
                if plan is None:
                    break
                begun += 1
                job = study.job(plan, agenda, attempts.get(plan.cell, 0) + 1)
                if job.base is not None and job.base.status == "failed":
                    _enter(study, agenda, watch, lost_record(job, f"Its dense cell failed: {job.base.error}"))
                else:
                    backend.submit(job)
            if not agenda.running:
                return
            record = backend.next_record(_REDRAW_S)
            if record is None:
                watch(agenda, None)
            else:
                _enter(study, agenda, watch, record)


def _enter(study: OpenStudy, agenda: Agenda, watch: Watcher, record: CellRecord) -> None:
    raw = raw_folder(study.out, record.cell)
    if raw.is_dir():
        record = record.model_copy(update={"raw": raw.relative_to(study.out).as_posix()})
    record.save(study.out / "cells" / f"{record.cell}.json")
    agenda.enter(record)
    watch(agenda, record)


@contextmanager
def _held(study: OpenStudy) -> Iterator[None]:
    """Raises ConfigError if another process runs the study, or its workers do not end."""
    with ExitStack() as files:
        try:
            study.out.mkdir(parents=True, exist_ok=True)
            lock = files.enter_context((study.out / "lock").open("w"))
            workers = files.enter_context(study.workers_lock.open("w"))
        except OSError as error:
            raise disk_error(study.out, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{study.out} is in use: another process runs this study. Wait for it.") from error
        _await_former_workers(workers.fileno(), study.out)
        yield


def _await_former_workers(descriptor: int, out: Path) -> None:
    """Workers of a study that was killed end by themselves, but not in the same moment."""
    give_up_s = time.monotonic() + _FORMER_WORKERS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > give_up_s:
                raise ConfigError(f"Workers of an earlier run still hold {out}. End them first.") from error
            time.sleep(0.1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return
