"""The study of drawn shapes from its file to its page, with vLLM: what a GPU host is asked to do, on two cores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from artifacts.run import load_run
from artifacts.study import CellRecord, SpeedAt, load_cells
from prunebench.study.run import open_study
from tests.prunebench.conftest import Verb

FILE = Path(__file__).parents[2] / "studies" / "tiny-shapes.toml"
LAYERS, KV_HEADS, HEAD, BLOCK_TOKENS = 8, 4, 64, 128


@pytest.mark.engine
def test_drawn_shapes_are_served_measured_and_reported(verb: Verb, tmp_path: Path) -> None:
    """The dense cell and the headline. Gates may fail on a machine that does other work; all else must be there."""
    study = tmp_path / FILE.name
    shutil.copy(FILE, study)
    ran = verb("study", "run", study, "--cells", 2)
    assert ran.code == 0, ran.stderr
    dense, headline = sorted(load_cells(study.with_suffix(".study")), key=lambda cell: cell.ratio)
    assert (dense.method, headline.method, headline.ratio) == ("dense", "ffn", 0.9)
    folder = study.with_suffix(".study") / "raw" / headline.cell / "headline"
    for concurrency in (1, 2):
        run = load_run(folder / f"concurrency-{concurrency}")
        assert [arm.failures for arm in run.arms] == [0, 0, 0], "A, B and A again"
        assert all(arm.output_tokens > 0 for arm in run.arms)
    check(headline)
    if headline.status == "done":
        told = verb("study", "report", study, "--out", tmp_path / "page.html")
        assert told.code == 0 and sum(told.result["verdicts"].values()) >= 16, told.stderr


def check(headline: CellRecord) -> None:
    planned = next(plan for plan in open_study(FILE).plans if plan.round == 1)
    assert headline.cell == planned.cell
    if headline.status == "failed":
        assert headline.error is not None and "No level is valid" in headline.error
        return
    assert headline.hardware is not None and headline.hardware.memory_bytes_per_s > 1e9
    rows = {(row.level, row.quantity): row for row in headline.speeds}
    for level in {level for level, _ in rows}:
        held, least, reached = (
            rows[level, name] for name in ("kv_capacity_tokens", "roofline_step_s", "reached_of_roofline")
        )
        tokens = 67108864 // (LAYERS * 2 * KV_HEADS * HEAD * 2)
        assert tokens - BLOCK_TOKENS <= (held.base_value or 0) <= tokens and held.speedup == 1
        assert least.speedup > 2 and reached.value == pytest.approx(
            (least.value or 0) / (step(rows[level, "tpot_p50_s"]))
        )
        assert rows[level, "output_tokens_per_s"].control_low is not None


def step(row: SpeedAt) -> float:
    assert row.value is not None
    return row.value
