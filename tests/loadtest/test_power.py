"""Promised power is had power: against tables, against simulation, and against itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from artifacts.errors import ConfigError
from loadtest.power import (
    MIN_BLOCKS,
    assured_spread,
    minimum_detectable_effect,
    power_of,
    recommended_blocks,
)

ALPHA, POWER = 0.05, 0.95


@pytest.mark.parametrize(
    ("standardised", "blocks", "power"),
    [(0.5, 34, 0.807), (0.8, 15, 0.821), (1.0, 16, 0.962)],
    ids=["medium", "large", "one deviation"],
)
def test_power_is_that_of_the_tables(standardised: float, blocks: int, power: float) -> None:
    """Cohen's d of the one-sample t test, as power tables and G*Power have it."""
    effect = math.expm1(standardised * 0.1)
    assert power_of(effect, 0.1, blocks, ALPHA) == pytest.approx(power, abs=0.01)


def test_power_is_what_a_simulation_finds() -> None:
    effect, spread, blocks = 0.05, 0.05, 12
    draws = np.random.default_rng(7).normal(math.log1p(effect), spread, (4000, blocks))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < ALPHA
    assert power_of(effect, spread, blocks, ALPHA) == pytest.approx(found.mean(), abs=0.02)


def test_faster_and_slower_are_found_alike() -> None:
    assert power_of(0.05, 0.04, 10, ALPHA) == pytest.approx(power_of(1 / 1.05 - 1, 0.04, 10, ALPHA))


def test_no_effect_is_found_as_often_as_alpha_allows() -> None:
    assert power_of(0.0, 0.04, 10, ALPHA) == pytest.approx(ALPHA)


@pytest.mark.parametrize("blocks", [2, 8, 50])
@pytest.mark.parametrize("spread", [0.01, 0.1])
def test_the_least_effect_has_exactly_the_power(blocks: int, spread: float) -> None:
    effect = minimum_detectable_effect(spread, blocks, ALPHA, POWER)
    if effect is None:
        assert blocks == 2
        return
    assert power_of(effect, spread, blocks, ALPHA) == pytest.approx(POWER, abs=1e-4)


def test_what_cannot_be_shown_has_no_number() -> None:
    assert minimum_detectable_effect(0.1, 1, ALPHA, POWER) is None
    assert minimum_detectable_effect(0.0, 8, ALPHA, POWER) == 0.0
    assert minimum_detectable_effect(50.0, 2, ALPHA, POWER) is None


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.1])
def test_the_recommended_number_is_the_first_that_suffices(spread: float) -> None:
    blocks = recommended_blocks(0.05, spread, ALPHA, POWER)
    assert blocks % 2 == 0
    assert power_of(0.05, spread, blocks, ALPHA) >= POWER
    assert blocks == MIN_BLOCKS or power_of(0.05, spread, blocks - 2, ALPHA) < POWER


def test_more_questions_take_more_blocks() -> None:
    assert recommended_blocks(0.05, 0.05, ALPHA / 12, POWER) > recommended_blocks(0.05, 0.05, ALPHA, POWER)


def test_an_enormous_effect_overflows_nothing() -> None:
    assert power_of(100.0, 0.001, 50, ALPHA) == pytest.approx(1)


@pytest.mark.parametrize(
    ("effect", "spread", "sentence"),
    [(0.0, 0.1, "above 0"), (-0.05, 0.1, "above 0"), (0.0001, 0.5, "longer blocks")],
    ids=["none", "negative", "too small to be shown"],
)
def test_what_no_blocks_can_show_is_refused(effect: float, spread: float, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        recommended_blocks(effect, spread, ALPHA, POWER)


def test_the_assured_spread_is_above_the_truth_as_often_as_promised() -> None:
    pilots = np.random.default_rng(11).normal(0, 0.05, (2000, 8)).std(axis=1, ddof=1)
    above = np.mean([assured_spread(float(s), 8) >= 0.05 for s in pilots])
    assert above == pytest.approx(0.9, abs=0.02)
    assert assured_spread(0.05, 1000) == pytest.approx(0.05, rel=0.04)
