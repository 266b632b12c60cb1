"""What is said before a run follows from the blocks, the spread and how many questions are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import ConfigError
from artifacts.run import RUN_NAME, Design
from loadtest.design import ASSUMED_SPREAD, POWER, describe, design_of_run, plan_design, spread_of_run
from loadtest.power import assured_spread, power_of
from tests.campaigns import make_run


def design(**changes: object) -> Design:
    values: dict[str, object] = {"blocks": None, "wanted": None, "spread": None, "pilot": None, "family": 1}
    return plan_design(**(values | changes))  # type: ignore[arg-type]


def test_without_a_word_it_is_eight_blocks_of_assumed_spread() -> None:
    made = design()
    assert (made.blocks, made.spread, made.spread_source, made.wanted) == (8, ASSUMED_SPREAD, "assumed", None)
    assert made.minimum_detectable is not None
    assert power_of(made.minimum_detectable, ASSUMED_SPREAD, 8, 0.05) == pytest.approx(POWER, abs=1e-4)


def test_a_wanted_effect_chooses_the_blocks_and_is_among_what_they_show() -> None:
    made = design(wanted=0.05, spread=0.04)
    assert made.blocks > 8
    assert (made.minimum_detectable or 1) <= 0.05


def test_given_blocks_outrank_the_wanted_effect_and_say_what_they_show() -> None:
    made = design(wanted=0.05, spread=0.04, blocks=6)
    assert made.blocks == 6
    assert (made.minimum_detectable or 0) > 0.05


def test_a_larger_family_shows_less() -> None:
    assert (design(family=12).minimum_detectable or 0) > (design(family=1).minimum_detectable or 0)
    assert design_of_run(8, None).family == 4


def test_a_pilot_gives_the_upper_limit_of_its_control(tmp_path: Path) -> None:
    ratios = tuple(np.exp([0.01, -0.02, 0.03, -0.01]))
    make_run(control=ratios, model=(1.5, 2.5, 3.5, 4.5)).save(tmp_path / RUN_NAME)
    spread, source = spread_of_run(tmp_path)
    assert spread == pytest.approx(assured_spread(float(np.std([0.01, -0.02, 0.03, -0.01], ddof=1)), 4))
    assert source.startswith("A/A control")
    assert design(pilot=tmp_path).spread == spread


def test_a_pilot_without_a_control_lends_its_comparison(tmp_path: Path) -> None:
    make_run(control=None, model=(1.5, 1.6, 1.4)).save(tmp_path / RUN_NAME)
    assert spread_of_run(tmp_path)[1].startswith("comparison")


BAD: list[tuple[Callable[[Path], Design], str]] = [
    (lambda folder: design(spread=0.1, pilot=folder), "given twice"),
    (lambda _: design(spread=0.0), "none of real blocks"),
    (lambda folder: design(pilot=folder / "nothing"), "holds no run"),
    (lambda folder: design(pilot=folder), "fewer than two blocks"),
]


@pytest.mark.parametrize(("ask", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_what_cannot_be_planned_is_refused(tmp_path: Path, ask: Callable[[Path], Design], sentence: str) -> None:
    make_run(control=(1.0,), model=(1.0,)).save(tmp_path / RUN_NAME)
    with pytest.raises(ConfigError, match=sentence):
        ask(tmp_path)


def test_the_sentence_names_blocks_spread_and_effect() -> None:
    said = describe(design(spread=0.04, blocks=12))
    assert said.startswith("12 blocks that spread by 4.0% (given)")
    assert "with 95% power" in said
    assert "no effect of any size" in describe(design(spread=100.0, blocks=2))
