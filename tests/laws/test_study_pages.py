"""The committed studies: their pages are what their cells say, and their tables open in other programs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.pages import read_raw
from benchmarks.study_cost import costs_of, work_s
from benchmarks.study_page import PICTURES, SERVING, STEM, measured, render
from laws.claims.claim import Verdict
from laws.studies.records import Study, read_study
from prunebench.study.results import write_results
from tests.laws.synthetic import World, study_of


@pytest.fixture(scope="module")
def laws() -> Study:
    return read_study(STEM)


def test_the_page_is_drawn_from_its_raw_data() -> None:
    assert STEM.with_suffix(".md").read_text(encoding="utf-8") == render(read_raw(STEM))


def test_raw_data_are_the_cells(laws: Study) -> None:
    """What is counted and averaged, to the last; what is fitted, to what another processor may round."""
    raw, now = read_raw(STEM), measured([laws, read_study(SERVING)])
    assert {name: raw[name] for name in now if name != "findings"} == {n: now[n] for n in now if n != "findings"}
    told, found = (
        [Verdict.parse(verdict, "a verdict") for verdict in each["findings"]["verdicts"]] for each in (raw, now)
    )
    assert [(v.claim, v.scope, v.verdict, v.cells) for v in told] == [
        (v.claim, v.scope, v.verdict, v.cells) for v in found
    ]
    values = [[number.value for v in each for number in v.numbers] for each in (told, found)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_speeds_are_of_both_kinds_and_every_picture_is_shown() -> None:
    raw = read_raw(STEM)
    assert {row["mode"] for row in raw["speeds"]} == {"paper", "serving"}
    assert set(raw["pictures"]) == set(PICTURES)


def test_the_study_of_laws_is_whole(laws: Study) -> None:
    assert len(laws.cells) == 122 and laws.failed == () and laws.file is not None
    kinds = {(cell.method, cell.recovery_tokens, cell.ratio, cell.seed) for cell in laws.cells}
    tenths = [round(0.1 * n, 1) for n in range(1, 10)]
    assert {(m, 0, r, s) for m in ("random", "hidden_slice", "obs") for r in tenths for s in (0, 1, 2)} < kinds
    assert {(m, 25_000, r, s) for m in ("random", "obs") for r in tenths[::2] for s in (0, 1, 2)} < kinds
    assert {cell.provenance.commit_dirty for cell in laws.cells} == {False}
    assert {row.method: row.calibrated for row in laws.file.methods} == {
        "random": False,
        "hidden_slice": True,
        "obs": True,
    }


def test_it_takes_less_than_an_hour_on_two_cores(laws: Study) -> None:
    assert costs_of(laws)["wall_s"] < 3600 and costs_of(laws)["processor_s"] < 2 * 3600


def test_work_is_what_was_read_or_the_costliest_of_the_same_size() -> None:
    world = World(models={"a": 10**9}, methods=("random",), ratios=(0.1, 0.5), seeds=(0, 1), modes=("paper",))
    study = study_of(world)
    spent = {"a-random-0.1-0-0": 30.0, "a-random-0.5-0-0": 10.0, "a-random-0.5-0-1": 12.0}
    cells = tuple(cell.model_copy(update={"processor_s": spent.get(cell.cell)}) for cell in study.cells)
    read = [cell for cell in cells if cell.cell in spent]
    assert [work_s(cell, read) for cell in cells] == [30.0, 30.0, 30.0, 10.0, 12.0]
    cost = costs_of(replace(study, cells=cells))
    assert (cost["cells"], cost["read"], cost["read_s"], cost["processor_s"]) == (5, 3, 52.0, 112.0)
    alone = sum(30.0 if cell.ratio < 0.5 else 10.0 for cell in cells if cell.speeds)
    assert cost["wall_s"] == alone + (112.0 - alone) / 2
    assert cost["recorded_wall_s"] == 5.0


@pytest.fixture(scope="module")
def tables(laws: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_results(laws.cells, tmp_path_factory.mktemp("tables"))


def test_pandas_and_sqlite_read_the_study(tables: tuple[Path, Path], laws: Study) -> None:
    frame = pd.read_parquet(tables[0])
    losses = frame[(frame.measure == "loss_nats") & (frame.recovery == "none")]
    expected = [cell.losses[0].loss_nats for cell in laws.cells if cell.method == "obs" and not cell.recovery_tokens]
    assert sorted(losses[losses.method == "obs"].value) == sorted(expected) and len(expected) == 27
    with closing(sqlite3.connect(tables[1])) as base:
        (count,) = base.execute("SELECT count(*) FROM results").fetchone()
    assert count == len(frame) > 122 * 10


@pytest.mark.skipif(find_spec("duckdb") is None, reason="DuckDB is not installed here")
def test_duckdb_reads_the_study(tables: tuple[Path, Path], laws: Study) -> None:
    import duckdb

    query = f"""SELECT method, ratio, avg(value / base_value) FROM '{tables[0]}' WHERE measure = 'loss_nats'
        AND recovery = 'none' AND ratio = 0.9 GROUP BY ALL ORDER BY method"""
    found: list[tuple[Any, ...]] = duckdb.sql(query).fetchall()
    assert [row[0] for row in found] == ["hidden_slice", "obs", "random"]
    obs = [cell.losses[0] for cell in laws.cells if (cell.method, cell.ratio, cell.recovery) == ("obs", 0.9, "none")]
    assert found[1][2] == pytest.approx(sum(row.loss_nats / row.base_loss_nats for row in obs) / len(obs))
