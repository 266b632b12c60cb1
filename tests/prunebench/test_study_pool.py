"""Workers that answer, die, hang or never come up: a cell's end is always told, and the next has a new process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from artifacts.study import CellRecord, Coordinates, StudyModel
from prunebench.study.job import CellJob
from prunebench.study.plan import CellPlan
from prunebench.study.pool import Pool, Rooms

# Speaks the workers' protocol and does what the model's name says; its seed is its process, so that a test can tell.
PROGRAM = """
import json, os, socket, sys, threading
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
lines = connection.makefile("rw")
for line in lines:
    log, _, text = line.partition("\\t")
    job = json.loads(text)
    what = job["plan"]["model"]["name"]
    if what == "dies":
        open(log, "w").write("out of memory\\n")
        sys.exit(3)
    if what == "hangs":
        threading.Event().wait()
    answer = dict(job["base"], cell=job["plan"]["cell"], seed=os.getpid(), model=what)
    lines.write(json.dumps(answer) + "\\n")
    lines.flush()
"""


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    (tmp_path / "worker.py").write_text(PROGRAM)
    (tmp_path / "lock").touch()
    return Rooms(
        logs=tmp_path / "logs",
        lock=tmp_path / "lock",
        program=(sys.executable, str(tmp_path / "worker.py")),
        timeout_s=20.0,
    )


def job(cell: str, model: str, answer: CellRecord) -> CellJob:
    at = Coordinates(model=model, method="dense", ratio=0.0)
    plan = CellPlan(cell=cell, at=at, model=StudyModel(name=model, source="x"))
    return CellJob(plan=plan, folder="", scratch="", raw="", base=answer)


@pytest.fixture
def answer() -> CellRecord:
    from tests.prunebench.small_studies import record_of

    at = Coordinates(model="tiny", method="dense", ratio=0.0)
    return record_of(CellPlan(cell="tiny.dense", at=at, model=StudyModel(name="tiny", source="x")))


def records(pool: Pool, count: int) -> dict[str, CellRecord]:
    found = [pool.next_record(60.0) for _ in range(count)]
    return {record.cell: record for record in found if record is not None}


def test_a_process_measures_many_cells_and_is_gone_afterwards(rooms: Rooms, answer: CellRecord) -> None:
    with Pool(1, rooms) as pool:
        assert pool.slots == 1 and pool.next_record(0.01) is None
        for cell in "abc":
            pool.submit(job(cell, "works", answer))
        found = records(pool, 3)
    assert set(found) == {"a", "b", "c"}
    (process,) = {record.seed for record in found.values()}
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_process_may_be_for_one_cell_only(rooms: Rooms, answer: CellRecord) -> None:
    from dataclasses import replace

    with Pool(1, replace(rooms, cells_per_worker=1)) as pool:
        for cell in "ab":
            pool.submit(job(cell, "works", answer))
        assert len({record.seed for record in records(pool, 2).values()}) == 2


def test_a_dying_worker_costs_its_cell_alone(rooms: Rooms, answer: CellRecord) -> None:
    with Pool(1, rooms) as pool:
        pool.submit(job("lost", "dies", answer))
        pool.submit(job("next", "works", answer))
        found = records(pool, 2)
    assert found["lost"].status == "failed" and found["next"].status == "done"
    assert "ended with code 3: out of memory" in str(found["lost"].error)
    assert str(found["lost"].error).endswith("The whole log is logs/lost.log.")


def test_a_hanging_cell_is_given_up_after_the_studys_limit(rooms: Rooms, answer: CellRecord) -> None:
    from dataclasses import replace

    with Pool(1, replace(rooms, timeout_s=0.5)) as pool:
        pool.submit(job("stuck", "hangs", answer))
        found = records(pool, 1)
    assert "longer than the study's cell_timeout_s of 0.5 s" in str(found["stuck"].error)


def test_leaving_ends_a_cell_that_is_under_way(rooms: Rooms, answer: CellRecord) -> None:
    with Pool(1, rooms) as pool:
        pool.submit(job("first", "works", answer))
        process = records(pool, 1)["first"].seed
        pool.submit(job("stuck", "hangs", answer))
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_worker_that_cannot_start_is_a_failed_cell(rooms: Rooms, answer: CellRecord) -> None:
    from dataclasses import replace

    with Pool(1, replace(rooms, program=(sys.executable, "-c", "raise SystemExit(7)"))) as pool:
        pool.submit(job("never", "works", answer))
        found = records(pool, 1)
    assert "ended with code 7" in str(found["never"].error)
