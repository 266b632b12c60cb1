"""Losses from one study, speeds from another: what they say together, and when they are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.study import CellRecord, StudyFile, StudyMethod, StudyModel, StudyText
from laws.studies.advice import Target, advise, choose_level
from laws.studies.candidates import Candidate, gather
from laws.studies.comparison import analyse
from laws.studies.joining import join, read_studies, require_one_machine
from laws.studies.records import Study, footprint_of, on_hardware
from tests.laws.synthetic import LEVEL, PROVENANCE, World, study_of, write_study

GIGA = 1_000_000_000
LOSSES = World(models={"a": GIGA}, ratios=(0.1, 0.3, 0.5, 0.7, 0.9), seeds=(0, 1), noise=0.002, modes=())
SPEEDS = replace(LOSSES, methods=("random",), ratios=(0.3, 0.5, 0.7, 0.9), seeds=(0,), sets=(), modes=("serving",))
FORWARD = replace(SPEEDS, modes=("paper",))
GPU = PROVENANCE.model_copy(update={"gpus": ("NVIDIA H200",)})


def changed(study: Study, change: Callable[[CellRecord], dict[str, Any]]) -> Study:
    return replace(study, cells=tuple(cell.model_copy(update=change(cell)) for cell in study.cells))


def by_name(study: Study) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in gather(study, LEVEL).candidates}


def test_cells_at_the_same_place_become_one_with_what_both_know() -> None:
    losses, speeds = study_of(LOSSES), study_of(SPEEDS)
    both = join(losses, speeds)
    assert len(both.cells) == len(losses.cells) and both.variants.keys() == losses.variants.keys()
    cell = next(cell for cell in both.cells if cell.cell == "a-random-0.5-0-0")
    assert cell.losses == next(c for c in losses.cells if c.cell == cell.cell).losses
    assert cell.speeds == next(c for c in speeds.cells if c.cell == cell.cell).speeds
    assert {c.cell for c in join(speeds, losses).cells} == {c.cell for c in both.cells}


def test_what_was_measured_twice_counts_once_and_the_first_stands() -> None:
    one, other = study_of(SPEEDS, seed=1), study_of(replace(SPEEDS, modes=("serving", "paper")), seed=2)
    both = join(one, other)
    rows = {(row.level, row.quantity) for row in both.cells[2].speeds}
    assert len(both.cells[2].speeds) == len(rows) == 6
    assert both.cells[2].speeds[:5] == one.cells[2].speeds


def test_models_of_two_studies_stand_side_by_side() -> None:
    both = join(study_of(LOSSES), study_of(replace(LOSSES, models={"b": 2 * GIGA})))
    assert both.models == ("a", "b") and len(both.cells) == 2 * len(study_of(LOSSES).cells)


def test_a_failure_counts_until_another_study_has_the_cell() -> None:
    whole = study_of(LOSSES)
    lost = replace(whole, cells=whole.cells[:-1], failed=whole.cells[-1:])
    assert [len(join(lost, other).failed) for other in (study_of(SPEEDS), whole)] == [1, 0]


def test_another_methods_variant_of_the_same_shapes_lends_its_speed() -> None:
    """Speeds of `random` alone were measured; `obs` keeps as many channels of every layer."""
    found = by_name(join(study_of(LOSSES), study_of(SPEEDS)))
    assert found["a obs 0.5"].speed == found["a random 0.5"].speed > 1.3
    assert (found["a random 0.5"].timed_as, found["a obs 0.5"].timed_as) == (None, "a random 0.5")
    assert "a obs 0.1" not in found, "nothing of its size was measured"


@pytest.mark.parametrize(
    "change",
    [
        {"allocation": "sensitivity"},
        {"params": 1},
        {"ratios": study_of(LOSSES).cells[-1].ratios},
        {"ratios": None},
        {"model": "b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_shapes_lend_nothing(change: dict[str, Any]) -> None:
    cell = next(cell for cell in study_of(LOSSES).cells if cell.cell == "a-obs-0.5-0-0")
    speeds = study_of(SPEEDS)
    assert speeds.timed_as(cell, LEVEL) is not None
    assert speeds.timed_as(cell.model_copy(update=change), LEVEL) is None
    assert speeds.timed_as(cell, "concurrency 4") is None
    assert footprint_of(speeds.cells[0]) is None, "of a dense model: a quantised twin has its shapes, not its speed"


def test_advice_over_two_studies_says_whose_speed_it_is() -> None:
    """`obs` loses a little less here, so that it is taken; what is not built yet gets the lent speeds' law."""
    world = replace(LOSSES, loss_factor=lambda method, r, d: 1 + (0.5 if method == "random" else 0.25) * r)
    analysis = analyse(join(study_of(world), study_of(SPEEDS)), replicates=60)
    advice = advise(analysis, Target(max_loss=0.19, relative=True))
    assert advice.recommended == "a obs 0.7"
    assert "Its speed is that of a random 0.7, which has the same shapes." in advice.reasons
    (expected,) = [p for p in advice.predictions if (p.method, p.ratio) == ("obs", 0.6)]
    assert expected.speed == pytest.approx(1 / 0.7, rel=0.02)


def test_served_loads_come_before_forward_passes() -> None:
    both = join(study_of(FORWARD), study_of(SPEEDS))
    assert choose_level(both, Target(max_loss=1)) == LEVEL
    assert choose_level(study_of(FORWARD), Target(max_loss=1)) == "forward 1x2048"
    assert choose_level(both, Target(level="forward 1x2048")) == "forward 1x2048"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cell: {"base_params": 7}, "a dense 0 has 1000000000 base_params in one study and 7 in another"),
        (lambda cell: {"params": 7} if cell.ratio == 0.5 else {}, "a random 0.5 has .* params in one study and 7"),
        (
            lambda cell: {"losses": tuple(x.model_copy(update={"base_loss_nats": 2.6}) for x in cell.losses)},
            "The dense a loses 2.5 nats on wikitext2 in one study and 2.6 in another",
        ),
    ],
    ids=["model", "shape", "loss"],
)
def test_one_name_for_two_things_is_refused(change: Callable[[CellRecord], dict[str, Any]], message: str) -> None:
    study = study_of(LOSSES)
    with pytest.raises(ConfigError, match=message):
        join(study, changed(study, change))


def with_file(study: Study, **settings: Any) -> Study:
    file = StudyFile(
        title=settings.pop("title", "one"),
        models=(StudyModel(name="a", source="demo"),),
        methods=(StudyMethod(name="random", method="random", **settings),),
        ratios=(0.5,),
        calibration="text",
        texts=(StudyText(set="wikitext2", text="held_out.txt"),),
    )
    return replace(study, file=file)


def test_files_are_joined_and_a_method_means_the_same_in_both() -> None:
    study = study_of(LOSSES)
    both = join(with_file(study), with_file(study, title="two", ratios=(0.1,), seeds=(3,)))
    assert both.title == "one; two" and not both.needs_data("random")
    assert join(study, with_file(study)).title == "one"
    with pytest.raises(ConfigError, match="Method 'random' has different settings in two studies"):
        join(with_file(study), with_file(study, calibrated=True))


def test_speeds_of_two_machines_are_not_compared() -> None:
    there = changed(study_of(SPEEDS), lambda cell: {"provenance": GPU, "model": "b"})
    both = join(study_of(SPEEDS), there)
    with pytest.raises(ConfigError, match=r"measured on A processor, 2 cores and on NVIDIA H200\. Choose one"):
        require_one_machine(both)
    narrowed = require_one_machine(on_hardware(both, "h200"))
    assert {cell.model for cell in narrowed.cells if cell.speeds} == {"b"}


def test_studies_are_read_from_their_folders(tmp_path: Path) -> None:
    folders = [write_study(world, tmp_path / f"{i}.study") for i, world in enumerate((LOSSES, SPEEDS))]
    assert len(read_studies(folders).speeds) == len(read_studies(folders[:1]).speeds)
    assert [bool(any(read_studies(each).speeds.values())) for each in (folders, folders[:1])] == [True, False]
    with pytest.raises(ConfigError, match="holds no cells"):
        read_studies([*folders, tmp_path])
