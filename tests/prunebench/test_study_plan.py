"""Which cells a study has, what they are called, and which comes next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.study import StudyFile
from prunebench.study.agenda import Agenda, worth_keeping
from prunebench.study.plan import CellPlan, expand
from tests.prunebench.small_studies import CELLS, STUDY, record_of, write_study


def plans_of(folder: Path, text: str = STUDY) -> tuple[CellPlan, ...]:
    path = write_study(folder, text)
    return expand(StudyFile.load(path), folder)


def test_every_point_of_the_product_is_a_cell_once(tmp_path: Path) -> None:
    plans = plans_of(tmp_path)
    assert len(plans) == CELLS == len({plan.cell for plan in plans})
    assert Counter((plan.at.method, plan.at.recovery) for plan in plans) == {
        ("dense", "none"): 1,
        ("random", "none"): 4,
        ("wanda", "none"): 2,
        ("random", "full"): 2,
    }
    assert plans[0].at.is_dense and not plans[0].is_pruned
    recovered = [plan for plan in plans if plan.recovery]
    assert {(plan.at.ratio, plan.at.seed, plan.at.recovery_tokens) for plan in recovered} == {
        (0.5, 0, 512),
        (0.5, 1, 512),
    }
    assert {plan.calibration for plan in plans} == {None, "training.txt"}


def test_a_name_says_where_the_cell_is(tmp_path: Path) -> None:
    names = [plan.cell.rpartition("-")[0] for plan in plans_of(tmp_path)]
    assert names[:3] == ["tiny.dense.r0.s0", "tiny.random.r0.25.s0", "tiny.random.r0.5.s0"]
    assert "tiny.random.r0.5.full-512.s1" in names


@pytest.mark.parametrize(
    ("before", "after", "renamed"),
    [
        ("seeds = [0, 1]", "seeds = [0, 1, 2]", set()),
        ("ratios = [0.25, 0.5]", "ratios = [0.5, 0.25]", set()),
        ('title = "a tiny model"', 'title = "another"', set()),
        ("calibration_tokens = 512", "calibration_tokens = 256", {"wanda"}),
        ("batch_tokens = 256", "batch_tokens = 512", {"random + full"}),
        ("length_tokens = 64", "length_tokens = 32", {"dense", "random", "wanda", "random + full"}),
        ('method = "wanda_sp"', 'method = "obs"', {"wanda"}),
    ],
)
def test_a_changed_file_renames_the_cells_that_the_change_touches(
    tmp_path: Path, before: str, after: str, renamed: set[str]
) -> None:
    def by_kind(text: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for plan in plans_of(tmp_path, text):
            kind = plan.at.method + (" + full" if plan.recovery else "")
            found.setdefault(kind, set()).add(plan.cell)
        return found

    assert before in STUDY
    was, now = by_kind(STUDY), by_kind(STUDY.replace(before, after, 1))
    assert {kind for kind in was if not was[kind] <= now[kind]} == renamed


def test_changed_text_renames_the_cells_that_read_it(tmp_path: Path) -> None:
    was = {plan.cell for plan in plans_of(tmp_path)}
    (tmp_path / "training.txt").write_text("other words")
    study = StudyFile.load(tmp_path / "study.toml")
    now = expand(study, tmp_path)
    assert {plan.at.method for plan in now if plan.cell not in was} == {"random", "wanda"}
    assert all(plan.recovery for plan in now if plan.cell not in was and plan.at.method == "random")


@pytest.mark.parametrize(
    ("text", "complaint"), [("missing.txt", "missing.txt does not exist"), ("demo:nothing", "no part of the demo")]
)
def test_a_text_that_is_not_there_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        plans_of(tmp_path, STUDY.replace('text = "held_out.txt"', f'text = "{text}"'))


def test_speeds_are_measured_where_the_study_says_and_with_the_first_seed(tmp_path: Path) -> None:
    speeds = '[[speeds]]\nmode = "paper"\ntokens = 64\nmethods = ["random"]\nratios = [0.5]\n'
    timed = [plan for plan in plans_of(tmp_path, STUDY + speeds) if plan.speeds]
    assert [(plan.at.method, plan.at.ratio, plan.at.seed, plan.at.recovery) for plan in timed] == [
        ("random", 0.5, 0, "none")
    ]


def test_the_dense_cell_is_first_and_groups_run_one_after_the_other(tmp_path: Path) -> None:
    agenda = Agenda(plans_of(tmp_path), {})
    dense = agenda.take()
    assert dense is not None and dense.at.is_dense
    assert agenda.take() is None, "all others are told against the dense model"
    agenda.enter(record_of(dense))
    taken = [agenda.take() for _ in range(8)]
    begun = [plan for plan in taken if plan is not None]
    assert len(begun) == 6 and len({plan.group for plan in begun}) == 6
    assert not any(plan.recovery for plan in begun), "their checkpoints are being made by others"
    shared = next(plan for plan in begun if plan.at.method == "random" and plan.at.ratio == 0.5)
    assert not agenda.is_last_of_group(shared)
    agenda.enter(record_of(shared))
    recovered = agenda.take()
    assert recovered is not None and recovered.group == shared.group and recovered.recovery is not None
    assert agenda.is_last_of_group(recovered)


def test_elsewhere_cells_of_a_group_need_not_wait(tmp_path: Path) -> None:
    agenda = Agenda(plans_of(tmp_path), {}, on_one_machine=False)
    dense = agenda.take()
    assert dense is not None
    agenda.enter(record_of(dense))
    assert len([plan for _ in range(20) if (plan := agenda.take())]) == CELLS - 1
    assert not agenda.pending and not agenda.is_finished


def test_a_cell_whose_speed_is_measured_runs_alone(tmp_path: Path) -> None:
    speeds = '[[speeds]]\nmode = "paper"\ntokens = 64\nmethods = ["random"]\n'
    plans = plans_of(tmp_path, STUDY + speeds)
    agenda = Agenda(plans, {plans[0].cell: record_of(plans[0])})
    timed = agenda.take()
    assert timed is not None and timed.speeds and agenda.take() is None
    agenda.enter(record_of(timed))
    agenda.running["busy"] = plans[-1]
    beside = agenda.take()
    assert beside is not None and not beside.speeds


def test_finished_cells_are_kept_and_failed_ones_tried_again_if_asked(tmp_path: Path) -> None:
    plans = plans_of(tmp_path)
    done, failed = record_of(plans[0]), record_of(plans[1], status="failed", error="no memory")
    stranger = record_of(plans[2], cell="of-another-study")
    found = (done, failed, stranger)
    assert set(worth_keeping(plans, found, retries_failed=False)) == {done.cell, failed.cell}
    assert set(worth_keeping(plans, found, retries_failed=True)) == {done.cell}
