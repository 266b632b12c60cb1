"""The same study on Ray: two nodes in one machine, of which one is killed while it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.study import StudyFile, load_cells
from prunebench.study.cluster import Cluster
from tests.prunebench.small_studies import CELLS, write_model, write_study

# In a process of its own: Ray changes signal handlers, and leaves threads and sockets to the end of its process. The
# second node comes when the first has its libraries loaded. So the cells that end at once are the first node's, and a
# cell's folder that is there when one of them has ended is that of the second node, which is then killed.
DRIVER = """
import json, sys, tempfile
from pathlib import Path
from ray.cluster_utils import Cluster as Nodes
from prunebench.study.cluster import Cluster
from prunebench.study.run import open_study, run_study

small = {"num_cpus": 1, "object_store_memory": 80_000_000}
nodes = Nodes(initialize_head=True, head_node_args={**small, "include_dashboard": False})
study = open_study(Path(sys.argv[1]))
backend = Cluster(nodes.address, study.file)
seen = {"slots": [], "killed": 0, "ended": []}
second = []

def watch(agenda, ended):
    if ended is None:
        return
    seen["ended"].append(ended.cell)
    seen["slots"].append(backend.slots)
    if not second:
        second.append(nodes.add_node(**small))
    elif not seen["killed"] and len(list(Path(tempfile.gettempdir()).glob("prunebench-cell-*"))) == 1:
        seen["killed"] += 1
        nodes.remove_node(second[0], allow_graceful=False)

run_study(study, backend, watch)
run_study(study, Cluster(nodes.address, study.file), watch)
nodes.shutdown()
print(json.dumps(seen))
"""


def test_a_cluster_needs_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyFile.load(write_study(tmp_path))
    monkeypatch.setattr("prunebench.study.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs Ray, which is not installed. Install prunebench\[cluster\]"):
        Cluster("auto", study)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed here: requirements/cluster.txt")
def test_a_killed_node_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    write_model(tmp_path)
    root, own = Path(__file__).resolve().parents[2], tmp_path / "of-cells"
    own.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path)],
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(own), "RAY_TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    records = load_cells(path.with_suffix(".study"))
    assert seen["killed"] == 1 and seen["slots"][:2] == [1, 2]
    assert len(records) == CELLS and {record.status for record in records} == {"done"}
    assert len(seen["ended"]) == len(set(seen["ended"])) == CELLS, "no cell came back twice"
    assert sorted(record.attempts for record in records) == [1] * (CELLS - 1) + [2], "one was on the killed node"
