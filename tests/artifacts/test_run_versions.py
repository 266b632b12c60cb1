"""A run.json of version 1 is read as what it was; one of a version to come is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.arrivals import Poisson
from artifacts.errors import ConfigError
from artifacts.provenance import collect_provenance
from artifacts.run import RUN_NAME, Level, RunManifest, Workload, load_run

OLD: dict[str, Any] = {
    "schema_version": 1,
    "url": "http://h:1",
    "models": ["a"],
    "against": None,
    "level": {"concurrency": None, "rate_per_s": 2.5, "arrivals": "poisson"},
    "workload": {"prompt_tokens": 64, "output_tokens": 48, "seed": 3},
    "duration_s": 16,
    "blocks": 8,
    "warmup_s": 1,
    "gates": [],
    "arms": [],
    "comparisons": [],
    "windows": [],
    "server_metrics": {},
    "client": {},
    "served": {},
    "provenance": collect_provenance().model_dump(mode="json"),
}


def loaded(folder: Path, content: dict[str, Any]) -> RunManifest:
    (folder / RUN_NAME).write_text(json.dumps(content))
    return load_run(folder)


def test_a_run_of_version_1_means_what_it_meant(tmp_path: Path) -> None:
    run = loaded(tmp_path, OLD)
    assert run.level == Level(arrivals=Poisson(rate_per_s=2.5))
    assert run.workload == Workload(prompt_tokens=64, output_tokens=48, seed=3)
    assert (run.trace, run.clipped_requests, run.mixed, run.energy, run.valid) == (None, 0, (), None, True)


def test_what_is_written_now_is_version_2_and_comes_back(tmp_path: Path) -> None:
    run = RunManifest.model_validate({k: v for k, v in OLD.items() if k != "schema_version"})
    run.save(tmp_path / RUN_NAME)
    assert json.loads((tmp_path / RUN_NAME).read_text())["schema_version"] == 2
    assert load_run(tmp_path) == run


def test_a_version_to_come_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schema_version"):
        loaded(tmp_path, OLD | {"schema_version": 3})
