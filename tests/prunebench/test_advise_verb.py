"""The verbs that read studies: what they print, write and refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from laws.studies.findings import Fits, StudyFindings
from tests.laws.synthetic import World, write_study
from tests.prunebench.conftest import Verb

GIGA = 1_000_000_000
WORLD = World(
    models={"big": 4 * GIGA, "small": GIGA},
    methods=("obs",),
    ratios=(0.1, 0.3, 0.5, 0.7, 0.9),
    seeds=(0, 1),
    modes=("serving",),
    loss_factor=lambda method, r, d: 1 + 0.25 * r,
    noise=0.003,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(WORLD, tmp_path_factory.mktemp("verbs") / "made-up.study")


def test_advise_prints_the_choice_the_front_and_what_is_expected(verb: Verb, study: Path) -> None:
    result = verb("advise", str(study), "--max-loss", "5%", "--rate", "8")
    answer = result.result
    assert result.code == 0
    assert answer["recommended"]["name"] == "small obs 0.1"
    assert {row["name"] for row in answer["front"]} >= {"big", "small"}
    assert answer["level"] == "rate 8/s" and answer["unit"] == "nats per token"
    assert {row["model"] for row in answer["predictions"]} == {"big", "small"}
    assert "small obs 0.1 is" in result.stderr and "variants meet the target" in result.stderr


def test_advise_without_an_answer_is_told_by_the_exit_code(verb: Verb, study: Path) -> None:
    result = verb("advise", str(study), "--slo", "tpot_p95<1us")
    assert result.code == 1
    assert result.result["recommended"] is None
    assert "Nearest is" in result.stderr


def test_advise_names_what_to_build_next(verb: Verb, tmp_path: Path) -> None:
    """The loss of 0.5 is allowed with room to spare, that of 0.7 is not: 0.65 is the last that the law lets through."""
    folder = write_study(replace(WORLD, models={"big": 4 * GIGA}), tmp_path / "one.study")
    result = verb("advise", str(folder), "--max-loss", "17.2%")
    answer = result.result
    assert answer["recommended"]["name"] == "big obs 0.5"
    assert answer["next_build"]["ratio"] == pytest.approx(0.65)
    assert "Not built yet: big obs 0.65 should lose" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing is asked for"),
        (["--max-loss", "much"], "is no allowance"),
        (["--slo", "tpot<5"], "is no limit"),
        (["--rate", "100"], "highest rate"),
        (["--max-loss", "1", "--gpu", "H200"], "No speed was measured on 'H200'"),
        (["--max-loss", "1", "--on", "c4"], "no quality on 'c4'"),
    ],
)
def test_advise_says_what_is_wrong(study: Path, arguments: list[str], message: str, verb: Verb) -> None:
    result = verb("advise", str(study), *arguments)
    assert result.code == 2 and message in result.stderr and result.stdout == ""


def test_laws_fit_prints_the_best_and_writes_all(verb: Verb, study: Path, tmp_path: Path) -> None:
    result = verb("laws", "fit", str(study), "--out", str(tmp_path / "fits.json"))
    answer = result.result
    assert result.code == 0
    assert answer["best_held_out"] == {"obs · wikitext2": "linear"}
    fits = Fits.load(tmp_path / "fits.json")
    assert {law.name for law in fits.comparisons[0].laws} == {"v1", "v2", "linear", "quadratic"}
    linear = fits.comparisons[0].law("linear")
    assert linear is not None and linear.fit.parameter("a").value == pytest.approx(0.25, abs=0.01)
    assert "→ linear" in result.stderr


def test_laws_fit_takes_another_ratio_and_scale(verb: Verb, study: Path, tmp_path: Path) -> None:
    """All parameters fall by 0.7 r here, so that the slope over them is steeper by 1 / 0.7."""
    options = ("--ratio", "params_total", "--scale", "natural", "--out", str(tmp_path / "fits.json"))
    assert verb("laws", "fit", str(study), *options).code == 0
    linear = Fits.load(tmp_path / "fits.json").comparisons[0].law("linear")
    assert linear is not None and linear.fit.scale == "natural"
    assert linear.fit.parameter("a").value == pytest.approx(0.25 / 0.7, abs=0.01)


def test_study_report_writes_beside_the_study(verb: Verb, study: Path) -> None:
    answer = verb("study", "report", str(study)).result
    assert Path(answer["report"]) == study / "report.html"
    assert StudyFindings.load(Path(answer["data"])).models == ("big", "small")


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, verb: Verb) -> None:
    result = verb("laws", "fit", str(tmp_path))
    assert result.code == 2 and "holds no cells/" in result.stderr
