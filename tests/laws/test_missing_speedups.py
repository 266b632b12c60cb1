"""A model that failed in every block has no speed-up: the report is written all the same, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from artifacts.run import Level, RunManifest
from laws.findings import gather_findings
from laws.report import headline_rows, write_report
from laws.table import summary_rows
from tests.laws.conftest import make_run

Writer = Callable[[str, RunManifest], Path]


def failed(streams: int) -> RunManifest:
    """A run in which the small model gave no token: its comparison holds no ratio."""
    run = make_run(Level(concurrency=streams), passed=False)
    empty = run.comparisons[0].model_copy(update={"ratios": {}, "block_ratios": {}})
    return run.model_copy(update={"comparisons": (empty,)})


def test_the_report_of_a_failed_model_is_written_and_invalid(run_folder: Writer, tmp_path: Path) -> None:
    result = write_report([run_folder("c1", failed(1))], tmp_path / "report.html")
    assert (result["valid"], result["verdicts"]) == (False, [])
    assert "NOT VALID" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["levels"][0]["speedups"] == {}


def test_a_failure_at_the_highest_level_leaves_the_lower_ones_alone(run_folder: Writer) -> None:
    folders = [run_folder("c1", make_run(Level(concurrency=1))), run_folder("c16", failed(16))]
    findings = gather_findings(folders, None)
    assert headline_rows(findings) == []
    header, dense, small = summary_rows(findings)
    assert header[-1] == "× tokens/s, concurrency 16"
    assert (dense[-2:], small[-2:]) == (["1", "1"], ["1.50× [1.40, 1.60]", "–"])


def test_a_failure_at_a_lower_level_leaves_the_verdict(run_folder: Writer) -> None:
    folders = [run_folder("c1", failed(1)), run_folder("c16", make_run(Level(concurrency=16)))]
    (row,) = headline_rows(gather_findings(folders, None))
    assert [at["level"] for at in row["levels"]] == ["concurrency 16"]
