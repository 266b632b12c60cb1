"""The same study on Ray: two nodes in one machine, of which one is killed while it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.study import CellRecord, StudyFile, load_cells
from prunebench.study.agenda import Agenda
from prunebench.study.cluster import Cluster, measure_remotely
from prunebench.study.parcel import pack, raw_folder, unpack
from prunebench.study.run import open_study
from tests.prunebench.small_studies import CELLS, STUDY, write_model, write_study

NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed here: requirements/cluster.txt")

# In a process of its own: Ray changes signal handlers, and leaves threads and sockets to the end of its process. The
# second node joins once a cell has ended, and is killed as soon as it has begun to measure one.
DRIVER = """
import json, sys, time
from pathlib import Path
import psutil
from ray.cluster_utils import Cluster as Nodes
from prunebench.study.cluster import Cluster
from prunebench.study.run import open_study, run_study

small = {"num_cpus": 1, "object_store_memory": 80_000_000}
nodes = Nodes(initialize_head=True, head_node_args={**small, "include_dashboard": False})
study = open_study(Path(sys.argv[1]))
backend = Cluster(nodes.address, study.file, study.out)
seen = {"slots": [], "killed": 0, "ended": []}
second = []

def has_just_begun(node):
    (raylet,) = node.all_processes["raylet"]
    below = psutil.Process(raylet.process.pid).children(recursive=True)
    return any("prunebench.study.worker" in p.cmdline() and time.time() - p.create_time() < 3 for p in below)

def watch(agenda, ended):
    if ended is not None:
        seen["ended"].append(ended.cell)
    if not second and seen["ended"] and agenda.pending:
        seen["slots"].append(backend.slots)
        second.append(nodes.add_node(**small))
        seen["slots"].append(backend.slots)
    elif second and not seen["killed"] and has_just_begun(second[0]):
        seen["killed"] += 1
        nodes.remove_node(second[0], allow_graceful=False)

run_study(study, backend, watch)
run_study(study, Cluster(nodes.address, study.file, study.out), watch)
nodes.shutdown()
print(json.dumps(seen))
"""
# Says what it was told where, as if that were a load test, and then measures for ever or not at all.
HANGS = """
import json, pathlib, socket, sys, threading
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
log, _, text = connection.makefile("r").readline().partition("\\t")
job = json.loads(text)
pathlib.Path(log).write_text("waiting\\n")
(pathlib.Path(job["raw"]) / "serving").mkdir(parents=True)
(pathlib.Path(job["raw"]) / "serving" / "campaign.json").write_text(job["scratch"])
threading.Event().wait()
"""


def test_a_cluster_needs_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyFile.load(write_study(tmp_path))
    monkeypatch.setattr("prunebench.study.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs Ray, which is not installed. Install prunebench\[cluster\]"):
        Cluster("auto", study, tmp_path)


def test_on_a_node_the_limit_of_time_holds_and_what_was_written_comes_back(tmp_path: Path) -> None:
    """The node's own folder is gone, and files of an earlier attempt at the cell are replaced."""
    study = open_study(write_study(tmp_path))
    job = study.job(study.plans[0], Agenda(study.plans, {}, False), 2)
    text, parcel = measure_remotely(job.model_dump_json(), 1.0, (sys.executable, "-c", HANGS))
    record = CellRecord.model_validate_json(text)
    assert (record.cell, record.attempts, record.status) == (job.plan.cell, 2, "failed")
    assert record.error == "It took longer than the study's cell_timeout_s of 1 s."
    earlier = raw_folder(study.out, record.cell) / "of-before"
    earlier.mkdir(parents=True)
    unpack(parcel, study.out, record.cell)
    assert not earlier.exists()
    assert (study.out / "logs" / f"{record.cell}.log").read_text() == "waiting\n"
    scratch = Path((study.out / "raw" / record.cell / "serving" / "campaign.json").read_text())
    assert scratch.parent.name.startswith("prunebench-cell-") and not scratch.parent.exists()


def test_a_parcel_that_does_not_fit_on_the_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out" / "raw" / "cell").mkdir(parents=True)
    (tmp_path / "full").touch()
    with pytest.raises(ConfigError, match="could not be written"):
        unpack(pack(tmp_path / "out"), tmp_path / "full", "cell")


def on_ray(tmp_path: Path, driver: str, study: Path) -> dict[str, Any]:
    """What the driver prints."""
    root, own = Path(__file__).resolve().parents[2], tmp_path / "of-cells"
    own.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", driver, str(study)],
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "TMPDIR": str(own),
            "RAY_TMPDIR": "/tmp",
            "RAY_raylet_start_wait_time_s": "180",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(own.glob("prunebench-cell-*")) == [], "a node keeps nothing"
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@NEEDS_RAY
def test_a_killed_node_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    write_model(tmp_path)
    seen = on_ray(tmp_path, DRIVER, path)
    records = load_cells(path.with_suffix(".study"))
    assert seen["killed"] == 1 and seen["slots"] == [1, 2]
    assert len(records) == CELLS and {record.status for record in records} == {"done"}
    assert len(seen["ended"]) == len(set(seen["ended"])) == CELLS, "no cell came back twice"
    assert sorted(record.attempts for record in records) == [1] * (CELLS - 1) + [2], "one was on the killed node"
    logs = {path.stem for path in (tmp_path / "study.study" / "logs").glob("*.log")}
    assert logs == {record.cell for record in records}, "every cell's log came from its node"


@NEEDS_RAY
def test_a_cell_that_takes_too_long_on_a_cluster_has_failed(tmp_path: Path) -> None:
    """Half a second is less than importing PyTorch takes: the dense cell is given up, and so are those that need it."""
    path = write_study(tmp_path, "cell_timeout_s = 0.5\n" + STUDY)
    write_model(tmp_path)
    on_ray(tmp_path, DRIVER.replace("agenda.pending", "False"), path)
    errors = [record.error for record in load_cells(path.with_suffix(".study"))]
    assert len(errors) == CELLS and sum(str(error).startswith("Its dense cell failed") for error in errors) == CELLS - 1
    assert all("longer than the study's cell_timeout_s of 0.5 s" in str(error) for error in errors)
