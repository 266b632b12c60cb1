"""The calibration set as an axis of a study: which cells there are, what they are called, and what stays as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.study import Coordinates, StudyFile, load_cells
from laws.studies.records import Study, method_label, variant_name
from prunebench.study.cell import measure_cell
from prunebench.study.job import CellJob
from prunebench.study.plan import CellPlan, expand
from prunebench.study.results import rows_of
from tests.prunebench.small_studies import STUDY, record_of, write_model, write_study

ROOT = Path(__file__).parents[2]
ONE = 'calibration = "training.txt"\n'
TWO = 'calibrations = [{ name = "general", source = "training.txt" }, { name = "task", source = "task.txt" }]\n'
AXIS = STUDY.replace(ONE, TWO)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path)
    (tmp_path / "task.txt").write_text((tmp_path / "held_out.txt").read_text()[::-1])
    return tmp_path


def plans_of(folder: Path, text: str) -> tuple[CellPlan, ...]:
    (folder / "axis.toml").write_text(text)
    return expand(StudyFile.load(folder / "axis.toml"), folder)


def test_a_calibrated_method_has_a_cell_for_each_text_and_others_have_one(folder: Path) -> None:
    plans = plans_of(folder, AXIS)
    assert Counter((plan.at.method, plan.at.calibration, plan.calibration) for plan in plans) == {
        ("dense", None, None): 1,
        ("random", None, None): 6,
        ("wanda", "general", "training.txt"): 2,
        ("wanda", "task", "task.txt"): 2,
    }
    names = [plan.cell.rpartition("-")[0] for plan in plans if plan.at.method == "wanda"]
    assert names[:2] == ["tiny.wanda.r0.25.general.s0", "tiny.wanda.r0.25.task.s0"]
    assert len({plan.group for plan in plans if plan.at.method == "wanda"}) == 4


def test_a_method_can_be_narrowed_to_some_texts_without_renaming_its_cells(folder: Path) -> None:
    wide = {plan.cell for plan in plans_of(folder, AXIS)}
    narrow = plans_of(folder, AXIS.replace("calibrated = true", 'calibrated = true\ncalibrations = ["task"]'))
    assert {plan.at.calibration for plan in narrow} == {None, "task"}
    assert {plan.cell for plan in narrow} < wide


def test_cells_without_the_axis_keep_their_names(folder: Path) -> None:
    """The committed study was measured before there was such an axis."""
    one, two = ({plan.cell for plan in plans_of(folder, text) if plan.calibration is None} for text in (STUDY, AXIS))
    assert one == two and len(one) == 7
    kept = load_cells(ROOT / "benchmarks/demo_laws_cpu_202611")
    study = ROOT / "studies/demo-laws.toml"
    planned = {plan.cell for plan in expand(StudyFile.load(study), study.parent)}
    assert len(kept) > 60 and {cell.cell for cell in kept} <= planned
    assert {cell.calibration for cell in kept} == {None}


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        (TWO, ONE + TWO, "give either `calibration` or `calibrations`"),
        (TWO, "", "calibrated methods need `calibration`"),
        ('name = "task"', 'name = "general"', "repeated: general"),
        ("calibrated = true", 'calibrated = true\ncalibrations = ["other"]', "'other' is not in the study"),
        ('method = "random"\n', 'method = "random"\ncalibrations = ["task"]\n', "need `calibrated = true`"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder: Path, before: str, after: str, complaint: str) -> None:
    assert before in AXIS
    with pytest.raises(ConfigError, match=complaint):
        plans_of(folder, AXIS.replace(before, after, 1))


def test_variants_of_two_texts_are_two_variants(folder: Path) -> None:
    """Taken for seeds of one variant, their difference would be called noise."""
    cells = tuple(record_of(plan) for plan in plans_of(folder, AXIS))
    named = {variant_name(key): len(found) for key, found in Study(folder, cells, (), None).variants.items()}
    assert named["tiny wanda 0.25 calibrated on task"] == named["tiny wanda 0.25 calibrated on general"] == 1
    labels = {method_label(cell) for cell in cells if cell.method == "wanda"}
    assert labels == {"wanda (ridge, calibrated on general)", "wanda (ridge, calibrated on task)"}
    rows = [row for cell in cells for row in rows_of(cell)]
    assert {row["calibration"] for row in rows} == {None, "general", "task"}


def test_a_cell_is_calibrated_on_its_own_text(folder: Path) -> None:
    """Both texts are drawn from the same words, so the losses are near; equal they are only for equal texts."""
    write_model(folder)
    plans = [plan for plan in plans_of(folder, AXIS) if plan.at.method == "wanda" and plan.at.ratio == 0.5]
    records = [
        measure_cell(
            CellJob(plan=plan, folder=str(folder), scratch=str(folder / "scratch"), raw=str(folder / "raw")),
            lambda *_: None,
        )
        for plan in plans
    ]
    assert [(record.status, record.calibration) for record in records] == [("done", "general"), ("done", "task")]
    general, task = (record.losses[0].loss_nats for record in records)
    assert general != task


def test_coordinates_without_the_field_are_read() -> None:
    old = {"model": "a", "method": "obs", "ratio": 0.5}
    assert Coordinates.model_validate(old).calibration is None
