"""A study is killed and goes on: every cell has one record, no finished cell is measured again, all is cleared up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.study import CellRecord, StudyFile, load_cells
from prunebench.study.agenda import Agenda
from prunebench.study.job import CellJob
from prunebench.study.run import OpenStudy, open_study, run_study
from tests.prunebench.conftest import Verb
from tests.prunebench.small_studies import CELLS, STUDY, record_of, write_model, write_study

WAIT_S = 120.0


class AtOnce:
    """A Backend that pretends: every cell it is given is done, unless its name holds a word of `failing`."""

    on_one_machine = True

    def __init__(self, slots: int = 2, failing: str | None = None) -> None:
        self.slots = slots
        self.jobs: list[CellJob] = []
        self._waiting: list[CellJob] = []
        self._failing = failing

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def submit(self, job: CellJob) -> None:
        self.jobs.append(job)
        self._waiting.append(job)

    def next_record(self, timeout_s: float) -> CellRecord | None:
        job = self._waiting.pop(0)
        made = record_of(job.plan, attempts=job.attempt)
        if self._failing and self._failing in job.plan.cell:
            return made.model_copy(update={"status": "failed", "error": "no memory"})
        return made


def unwatched(agenda: Agenda, ended: CellRecord | None) -> None:
    return


@pytest.fixture
def study(tmp_path: Path) -> OpenStudy:
    return open_study(write_study(tmp_path))


def test_every_cell_is_measured_once_and_then_none(study: OpenStudy) -> None:
    backend = AtOnce()
    records = run_study(study, backend, unwatched)
    assert len(records) == len(backend.jobs) == CELLS
    assert all(job.base is not None or job.plan.at.is_dense for job in backend.jobs)
    again = AtOnce()
    assert run_study(study, again, unwatched) == records and again.jobs == []
    assert {path.name for path in study.out.iterdir()} >= {"cells", "results.parquet", "results.sqlite", "study.json"}
    assert StudyFile.load(study.out / "study.json") == study.file


def test_a_record_says_where_its_load_tests_files_are(study: OpenStudy) -> None:
    served = study.plans[1].cell
    (study.out / "raw" / served / "serving").mkdir(parents=True)
    found = {record.cell: record.raw for record in run_study(study, AtOnce(), unwatched)}
    assert found.pop(served) == f"raw/{served}" and set(found.values()) == {None}


def test_a_checkpoint_is_kept_exactly_until_its_last_cell(study: OpenStudy) -> None:
    backend = AtOnce(slots=1)
    run_study(study, backend, unwatched)
    for place, job in enumerate(backend.jobs):
        later = any(other.plan.group == job.plan.group for other in backend.jobs[place + 1 :])
        assert job.keeps_checkpoint == later


def test_a_failed_cell_stops_nothing_and_is_tried_again_only_if_asked(study: OpenStudy) -> None:
    records = run_study(study, AtOnce(failing="wanda.r0.5"), unwatched)
    failed = [record for record in records if record.status == "failed"]
    assert len(records) == CELLS and [record.method for record in failed] == ["wanda"]
    silent, loud = AtOnce(), AtOnce()
    run_study(study, silent, unwatched)
    mended = run_study(study, loud, unwatched, retries_failed=True)
    assert silent.jobs == [] and [job.attempt for job in loud.jobs] == [2]
    assert all(record.status == "done" for record in mended)


def test_without_its_dense_cell_a_model_cannot_be_measured(study: OpenStudy) -> None:
    backend = AtOnce(failing="dense")
    records = run_study(study, backend, unwatched)
    assert len(backend.jobs) == 1 and len(records) == CELLS
    assert {record.error for record in records} == {"no memory", "Its dense cell failed: no memory"}


def test_a_part_of_a_study_can_be_measured(study: OpenStudy) -> None:
    assert len(run_study(study, AtOnce(), unwatched, most_cells=3)) == 3
    assert len(run_study(study, AtOnce(), unwatched)) == CELLS


def test_two_processes_cannot_run_one_study(study: OpenStudy) -> None:
    def run_inside(agenda: Agenda, ended: CellRecord | None) -> None:
        with pytest.raises(ConfigError, match="another process runs this study"):
            run_study(study, AtOnce(), unwatched)

    run_study(study, AtOnce(), run_inside, most_cells=1)


def test_cells_that_a_changed_file_has_dropped_do_not_count(tmp_path: Path, study: OpenStudy) -> None:
    run_study(study, AtOnce(), unwatched)
    fewer = open_study(write_study(tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [1]", 1)))
    assert len(fewer.plans) < CELLS
    assert len(fewer.records()) == len(fewer.plans)
    assert len(load_cells(fewer.out)) == CELLS


def begin(folder: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "prunebench", "study", "run", str(folder / "study.toml")]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: object, what: str) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up_s, what
        time.sleep(0.01)


def test_a_killed_study_goes_on_without_loss_or_repetition(verb: Verb, tmp_path: Path) -> None:
    """Real processes: the runner gets SIGKILL while a worker measures, and the verb is given again."""
    bad = '[[methods]]\nname = "bad"\nmethod = "nonsense"\nratios = [0.5]\nseeds = [0]\n'
    path = write_study(tmp_path, STUDY.replace("[[recoveries]]", bad + "[[recoveries]]", 1))
    write_model(tmp_path)
    out = path.with_suffix(".study")
    runner = begin(tmp_path)
    try:
        wait_for(lambda: len(list((out / "cells").glob("*.json"))) >= 3, "no cell was measured")
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.wait()
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / "cells").glob("*.json")}
    assert 3 <= len(before) < CELLS
    outcome = verb("study", "run", path)
    assert outcome.code == 0, outcome.stderr
    assert (outcome.result["done"], outcome.result["left"]) == (CELLS, 0)
    ((cell, error),) = outcome.result["failed"].items()
    assert cell.startswith("tiny.bad.r0.5") and "'nonsense' is unknown" in error
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / "cells").glob("*.json")}
    assert len(after) == CELLS + 1
    assert {name: after[name] for name in before} == before
    for name in before:
        started = (out / "logs" / name).with_suffix(".log").read_text().count(f" {Path(name).stem}\n")
        assert started == 1, f"{name} was measured again"
    assert not (out / "scratch").exists()
    check_measured(load_cells(out))
    status = verb("study", "status", path)
    assert json.dumps(status.result) == json.dumps(outcome.result)


def check_measured(records: tuple[CellRecord, ...]) -> None:
    """The cells hold together: one base, losses told against it, sizes that follow from the ratio."""
    done = {record.cell: record for record in records if record.status == "done"}
    (dense,) = [record for record in done.values() if record.is_dense]
    assert dense.losses[0].loss_nats == dense.losses[0].base_loss_nats and dense.params == dense.base_params
    for record in done.values():
        (loss,) = record.losses
        assert loss.base_loss_nats == dense.losses[0].loss_nats and loss.tokens == dense.losses[0].tokens
        assert loss.standard_error_nats is not None and loss.standard_error_nats > 0
        assert record.ratios is not None and record.ratios.nominal == record.ratio
        assert record.base_params == dense.params and record.params is not None
        assert 1 - record.params / dense.params == pytest.approx(record.ratios.params_total)
        assert ("recover" in record.stages_s) == (record.recovery == "full")
    untrained = {(r.ratio, r.seed): r.losses[0].loss_nats for r in done.values() if r.method == "random"}
    assert len({round(loss, 9) for loss in untrained.values()}) == len(untrained), "seeds and ratios decide the loss"


def test_a_study_that_is_carried_to_another_machine_goes_on_there(study: OpenStudy, tmp_path: Path) -> None:
    """Nothing in its folder says where it was: cells are known by content, paths are those of the machine at hand."""
    run_study(study, AtOnce(), unwatched, most_cells=3)
    (study.out / "raw" / "unfinished").mkdir(parents=True)
    there = tmp_path / "elsewhere" / "deep"
    shutil.copytree(study.folder, there)
    moved, backend = open_study(there / "study.toml"), AtOnce()
    shutil.rmtree(study.out)
    records = run_study(moved, backend, unwatched)
    assert len(records) == CELLS and len(backend.jobs) == CELLS - 3
    assert all(str(there) in path for job in backend.jobs for path in (job.folder, job.scratch, job.raw))
    kept = [path for path in moved.out.rglob("*.json") if str(study.folder) + "/study" in path.read_text()]
    assert kept == [] and (moved.out / "raw" / "unfinished").is_dir()
