"""What is known of cells as tables, and what is expected to come: costs and time left."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from artifacts.errors import ConfigError
from artifacts.study import AccuracyOn, CellRecord, LossOn, SpeedAt, StudyFile
from artifacts.variant import Ratios
from prunebench.study.agenda import Agenda
from prunebench.study.cost import CellCost, Prices, assumed_s, known_params, learn
from prunebench.study.display import Standing, cell_rows, plan_rows, status_rows
from prunebench.study.plan import CellPlan, expand
from prunebench.study.results import COLUMNS, rows_of, write_results
from tests.prunebench.small_studies import CELLS, record_of, write_study

PARAMS = {"tiny": 1_000_000}


@pytest.fixture
def plans(tmp_path: Path) -> tuple[CellPlan, ...]:
    return expand(StudyFile.load(write_study(tmp_path)), tmp_path)


def full_record(plan: CellPlan) -> CellRecord:
    return record_of(
        plan,
        losses=(LossOn(set="words", loss_nats=3.0, base_loss_nats=2.0, tokens=500, kl_nats=0.5),),
        accuracies=(AccuracyOn(task="copa", accuracy=0.25, base_accuracy=0.5, items=40),),
        speeds=(
            SpeedAt(
                mode="serving",
                level="concurrency 4",
                quantity="tpot_p50_s",
                speedup=1.5,
                low=None,
                high=2.0,
                pairs=6,
                base_value=0.3,
                value=0.2,
                unit="s",
            ),
        ),
        ratios=Ratios(nominal=0.5, params_total=0.25, params_blocks=0.4, kv_bytes_per_token=0, flops_per_token=0.2),
        params=75,
        base_params=100,
        processor_s=0.75,
        stages_s={"evaluate": 0.5},
    )


def test_a_row_is_one_value_of_one_cell(plans: tuple[CellPlan, ...]) -> None:
    rows = list(rows_of(full_record(plans[1])))
    values = {(row["kind"], row["of"], row["measure"]): row for row in rows}
    assert len(values) == len(rows) == 3 + 5 + 1 + 2 + 1 + 2
    assert values["loss", "words", "loss_nats"]["base_value"] == 2.0
    assert values["accuracy", "copa", "accuracy"]["n"] == 40
    speedup = values["speed", "serving: concurrency 4", "speedup_tpot_p50_s"]
    assert (speedup["value"], speedup["low"], speedup["high"], speedup["n"]) == (1.5, None, 2.0, 6)
    assert {tuple(row) for row in rows} == {tuple(COLUMNS)}


def test_pandas_and_sqlite_read_the_same_table(tmp_path: Path, plans: tuple[CellPlan, ...]) -> None:
    failed = record_of(plans[2], status="failed", error="no memory")
    parquet, base = write_results((full_record(plans[1]), failed), tmp_path)
    frame = pd.read_parquet(parquet)
    with closing(sqlite3.connect(base)) as connection:
        same = pd.read_sql("SELECT * FROM results", connection)
    assert list(frame.columns) == list(same.columns) == list(COLUMNS)
    assert len(frame) == len(same) == 15
    loss = frame[frame.measure == "loss_nats"].iloc[0]
    assert (loss.model, loss.method, loss.ratio, loss.value) == ("tiny", "random", 0.25, 3.0)
    assert same[same.status == "failed"].error.tolist() == ["no memory"]
    assert sorted(path.name for path in tmp_path.glob("results*")) == ["results.parquet", "results.sqlite"]


def test_duckdb_reads_the_table(tmp_path: Path, plans: tuple[CellPlan, ...]) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed here")
    parquet, _ = write_results((full_record(plans[1]),), tmp_path)
    found = duckdb.sql(f"SELECT kind, count(*) FROM '{parquet}' GROUP BY kind").fetchall()
    assert dict(found) == {"cost": 2, "ratio": 6, "loss": 2, "accuracy": 1, "speed": 2}


def test_tables_are_written_anew_and_a_full_disk_is_told(tmp_path: Path, plans: tuple[CellPlan, ...]) -> None:
    write_results((full_record(plans[1]),), tmp_path)
    parquet, _ = write_results((), tmp_path)
    assert len(pd.read_parquet(parquet)) == 0
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="could not be written"):
        write_results((), tmp_path / "file")


def test_assumed_costs_count_work(plans: tuple[CellPlan, ...]) -> None:
    by_kind = {(plan.at.method, plan.at.recovery): assumed_s(plan, 1_000_000) for plan in plans}
    assert set(by_kind["dense", "none"]) == {"evaluate"}
    assert set(by_kind["random", "none"]) == {"compress", "evaluate"}
    assert set(by_kind["random", "full"]) == {"recover", "evaluate"}
    forward_s = 2e6 / 3e10
    assert by_kind["wanda", "none"]["compress"] - by_kind["random", "none"]["compress"] == pytest.approx(
        512 * 4 * forward_s
    )
    assert by_kind["random", "full"]["recover"] == pytest.approx(1 + 512 * 3 * forward_s)


def test_measured_cells_correct_the_estimate_from_near_to_far(plans: tuple[CellPlan, ...]) -> None:
    assumed = {plan.cell: assumed_s(plan, 1_000_000) for plan in plans}
    random, other = [plan for plan in plans if plan.at.method == "random" and plan.recovery is None][:2]
    wanda = next(plan for plan in plans if plan.at.method == "wanda")
    slow = record_of(random, stages_s={stage: 3 * s for stage, s in assumed[random.cell].items()})
    prices = learn(PARAMS, plans, [slow, record_of(plans[0], status="failed", error="x")])
    assert prices.of(other).total_s == pytest.approx(3 * sum(assumed[other.cell].values()))
    assert prices.of(other).measured and prices.of(wanda).measured
    slower = record_of(wanda, stages_s={stage: 10 * s for stage, s in assumed[wanda.cell].items()})
    both = learn(PARAMS, plans, [slow, slower])
    assert both.of(wanda).total_s == pytest.approx(10 * sum(assumed[wanda.cell].values()))
    assert both.of(other).total_s == pytest.approx(3 * sum(assumed[other.cell].values()))
    others = [plan for plan in plans if plan.at.method == "random" and plan.recovery is None][1:3]
    stuck = [
        record_of(plan, stages_s={"evaluate": n * assumed[plan.cell]["evaluate"]}) for n, plan in enumerate(others, 3)
    ]
    typical = learn(PARAMS, plans, [slow, *stuck]).of(random).stages_s["evaluate"]
    assert typical == pytest.approx(3 * assumed[random.cell]["evaluate"]), "the median forgives one slow cell"
    recovered = next(plan for plan in plans if plan.recovery)
    assert not both.of(recovered).measured, "nobody has trained yet"


def test_parameters_come_from_records_then_the_study_then_the_files(
    tmp_path: Path, plans: tuple[CellPlan, ...]
) -> None:
    model = plans[0].model
    assert known_params([model], tmp_path, [])["tiny"] == 1_000_000_000
    told = model.model_copy(update={"params": 7})
    assert known_params([told], tmp_path, []) == {"tiny": 7}
    assert known_params([told], tmp_path, [full_record(plans[1])]) == {"tiny": 100}
    demo = model.model_copy(update={"source": "demo"})
    assert known_params([demo], tmp_path, [])["tiny"] == 5_115_072


def test_tables_for_people_count_cells_and_time(plans: tuple[CellPlan, ...]) -> None:
    rows = plan_rows(plans, Prices(PARAMS), {plans[0].cell})
    assert [row[:4] for row in rows[1:]] == [
        ["tiny", "dense", "1", "1"],
        ["tiny", "random", "4", "0"],
        ["tiny", "random + full", "2", "0"],
        ["tiny", "wanda", "2", "0"],
        ["all", "", str(CELLS), "1"],
    ]
    assert rows[1][5] == "0 s" and rows[-1][6] == "counted work"
    each = cell_rows(plans, Prices(PARAMS), {plans[0].cell})
    assert [row[0] for row in each[1:]] == [plan.cell for plan in plans]
    assert each[1][1:3] == ["is there", "0 s"] and each[-1][2] == rows[-1][5]
    records = [record_of(plans[0]), record_of(plans[1], status="failed", error="x")]
    assert status_rows(plans, records)[1:3] == [["tiny", "dense", "1", "0", "0"], ["tiny", "random", "0", "1", "3"]]


def test_time_left_is_shared_by_the_workers(plans: tuple[CellPlan, ...], capsys: pytest.CaptureFixture[str]) -> None:
    agenda = Agenda(plans, {plans[0].cell: record_of(plans[0])})
    alone, together = Standing(PARAMS, 1, None), Standing(PARAMS, 4, None)
    whole = sum(sum(assumed_s(plan, 1_000_000).values()) for plan in plans[1:])
    assert alone.left_s(agenda) == pytest.approx(whole) == pytest.approx(4 * together.left_s(agenda))
    alone(agenda, record_of(plans[0], status="failed", error="no memory"))
    assert f"1/{CELLS} {plans[0].cell}: FAILED: no memory (1 s)" in capsys.readouterr().err


def test_costs_are_documents() -> None:
    cost = CellCost(cell="a", stages_s={"compress": 1.5, "evaluate": 2.0}, measured=False)
    assert CellCost.parse(cost.model_dump(), "here").total_s == 3.5
