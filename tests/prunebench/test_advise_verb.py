"""The verbs that read studies: what they print, write and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from laws.studies.findings import Fits, StudyFindings
from prunebench import cli
from prunebench.cli import app
from tests.laws.synthetic import World, write_study

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


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def printed(result: Result) -> dict[str, Any]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def test_advise_prints_the_choice_the_front_and_what_is_expected(study: Path) -> None:
    result = call("advise", str(study), "--max-loss", "5%", "--rate", "8")
    answer = printed(result)
    assert result.exit_code == 0
    assert answer["recommended"]["name"] == "small obs 0.1"
    assert {row["name"] for row in answer["front"]} >= {"big", "small"}
    assert answer["level"] == "rate 8/s" and answer["unit"] == "nats per token"
    assert {row["model"] for row in answer["predictions"]} == {"big", "small"}
    assert "small obs 0.1 is" in result.stderr and "variants meet the target" in result.stderr


def test_advise_without_an_answer_is_told_by_the_exit_code(study: Path) -> None:
    result = call("advise", str(study), "--slo", "tpot_p95<1us")
    assert result.exit_code == 1
    assert printed(result)["recommended"] is None
    assert "Nearest is" in result.stderr


def test_advise_names_what_to_build_next(tmp_path: Path) -> None:
    """The loss of 0.5 is allowed with room to spare, that of 0.7 is not: 0.65 is the last that the law lets through."""
    folder = write_study(replace(WORLD, models={"big": 4 * GIGA}), tmp_path / "one.study")
    result = call("advise", str(folder), "--max-loss", "17.2%")
    answer = printed(result)
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
def test_advise_says_what_is_wrong(
    study: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["prunebench", "advise", str(study), *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_laws_fit_prints_the_best_and_writes_all(study: Path, tmp_path: Path) -> None:
    result = call("laws", "fit", str(study), "--out", str(tmp_path / "fits.json"))
    answer = printed(result)
    assert result.exit_code == 0
    assert answer["best_held_out"] == {"obs · wikitext2": "linear"}
    fits = Fits.load(tmp_path / "fits.json")
    assert {law.name for law in fits.comparisons[0].laws} == {"v1", "v2", "linear", "quadratic"}
    linear = fits.comparisons[0].law("linear")
    assert linear is not None and linear.fit.parameter("a").value == pytest.approx(0.25, abs=0.01)
    assert "←" in result.stderr


def test_laws_fit_takes_another_ratio_and_scale(study: Path, tmp_path: Path) -> None:
    """All parameters fall by 0.7 r here, so that the slope over them is steeper by 1 / 0.7."""
    options = ("--ratio", "params_total", "--scale", "natural", "--out", str(tmp_path / "fits.json"))
    printed(call("laws", "fit", str(study), *options))
    linear = Fits.load(tmp_path / "fits.json").comparisons[0].law("linear")
    assert linear is not None and linear.fit.scale == "natural"
    assert linear.fit.parameter("a").value == pytest.approx(0.25 / 0.7, abs=0.01)


def test_study_report_writes_beside_the_study(study: Path) -> None:
    answer = printed(call("study", "report", str(study)))
    assert Path(answer["report"]) == study / "report.html"
    assert StudyFindings.load(Path(answer["data"])).models == ("big", "small")


def test_a_folder_that_is_no_study_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prunebench", "laws", "fit", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    assert "holds no cells/" in capsys.readouterr().err
