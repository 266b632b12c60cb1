"""The papers' laws at points computed by hand, and what must hold for any parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from laws.critical import along_ratios, critical_ratio_v1, critical_ratio_v2, crossing_ratio
from laws.forms import BILLION, LAWS, LINEAR, P2, QUADRATIC, SPARSE, TIME_SHARE, V1, V2, Conditions, Law


def at(r: float, base: float = 2.0, tokens: float = 0.0, d_unit: float = 1e6, params: float = 4e9) -> Conditions:
    return Conditions(
        base=np.array([base]),
        ratio=np.array([r]),
        tokens=np.array([tokens]),
        base_params=np.array([params]),
        params=np.array([params * (1 - r)]),
        d_unit=d_unit,
    )


@pytest.mark.parametrize(
    ("law", "parameters", "point", "value"),
    [
        (V1, (1, 2, 0), at(0.5), 2 * 2.25),
        (V1, (1, 2, 1), at(0.5), 2 * 2.25 * 2),
        (V1, (1, 2, 1), at(0.5, tokens=1e6), 2 * 2.25 * 1.5),
        (V1, (1, 2, 1), at(0.5, tokens=25e6), 2 * 2.25 * (1 + 1 / 26)),
        (V1, (2, 0, 0), at(0.5, base=3), 9),
        (V2, (0, 2), at(0.5), 2 * 0.25),
        (V2, (math.log(1.1), 1), at(0.5), 2 * 1.1 * 0.5),
        (LINEAR, (3, 0), at(0.5), 2 * 2.5),
        (QUADRATIC, (1, 2, 0), at(0.5), 2 * 2.0),
        (P2, (8, 3, 1, 0.5, 1, -1, 0), at(0.5, tokens=3e6), 2 + 0.5 * (8 / 2 + 1 + 1)),
        (P2, (8, 3, 1, 0.5, 1, -1, 1), at(0.5, tokens=3e6), 2 + 0.5 / 4 * (8 / 2 + 1 + 1)),
        (SPARSE, (1, 1, 0.5, 1, 4, 0.5, 0.25), at(0.5, tokens=1e6), (0.5 + 0.5) / 2 + 2 + 0.25),
        (TIME_SHARE, (0.5,), at(0.8, base=1), 1 / 0.6),
    ],
)
def test_laws_by_hand(law: Law, parameters: tuple[float, ...], point: Conditions, value: float) -> None:
    assert law(parameters, point)[0] == pytest.approx(value)


def test_v1_as_the_paper_tabulates_it() -> None:
    """Loss and accuracy multipliers at r = .1, .3, .5, .7, .9 with endless recovery."""
    points = along_ratios(np.array([0.1, 0.3, 0.5, 0.7, 0.9]), 1.0, 1e15, 1e6)
    assert V1((1, 2, 0.7), points) == pytest.approx([1.21, 1.69, 2.25, 2.89, 3.61], abs=1e-6)
    assert V1((1, -1, -0.7), points) == pytest.approx([0.909, 0.769, 0.667, 0.588, 0.526], abs=5e-4)


def test_unit_of_d_is_a_choice_that_matters() -> None:
    """In raw tokens the third factor is a switch, in millions it is not."""
    raw = [float(V1((1, 0, 1), at(0.5, tokens=tokens, d_unit=1.0))[0]) for tokens in (0, 1e6, 25e6)]
    millions = [float(V1((1, 0, 1), at(0.5, tokens=tokens))[0]) for tokens in (0, 1e6, 25e6)]
    assert raw == pytest.approx([4, 2, 2], abs=1e-5)
    assert millions == pytest.approx([4, 3, 2 * (1 + 1 / 26)])


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_many_parameter_sets_at_once_are_each_alone(law: Law) -> None:
    points = along_ratios(np.array([0.1, 0.4, 0.8]), 2.0, 5e6, 1e6, 3 * BILLION)
    sets = np.random.default_rng(1).uniform(0.2, 0.6, (4, len(law.parameters)))
    together = law(sets, points)
    assert together.shape == (4, 3)
    for row, one in zip(together, sets, strict=True):
        assert row == pytest.approx(law(one, points))


@pytest.mark.parametrize("law", [V1, V2], ids=["v1", "v2"])
def test_log_terms_are_the_law(law: Law) -> None:
    assert law.log_terms is not None
    points = along_ratios(np.array([0.1, 0.4, 0.8]), 2.5, 5e6, 1e6)
    parameters = np.array([0.9, -0.7, 0.4][: len(law.parameters)])
    columns, rest = law.log_terms(points)
    assert columns @ parameters + rest == pytest.approx(np.log(law(parameters, points)))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_each_law_says_where_it_comes_from(law: Law) -> None:
    assert law.source and "=" in law.equation
    assert all(len(start) == len(law.parameters) for start in law.starts)


@pytest.mark.parametrize(
    ("kept", "beta", "ratio"),
    [
        (0.9, -1, 1 / 0.9 - 1),
        (0.8, -0.5, 0.8**-2 - 1),
        (1.21, 2, 0.1),
        (0.9, 0.5, None),
        (1.1, -1, None),
        (0.9, 0, None),
        (0.5, -0.1, 1.0),
    ],
)
def test_critical_ratio_of_v1(kept: float, beta: float, ratio: float | None) -> None:
    found = critical_ratio_v1(kept, beta)
    assert found == (None if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize(
    ("kept", "p0", "alpha", "ratio"),
    [(0.5, 1.0, 1.0, 0.5), (0.25, 1.0, 2.0, 0.5), (0.5, 0.5, 1.0, 0.0), (0.5, 0.4, 1.0, 0.0), (2.0, 1.0, -1.0, 0.5)],
)
def test_critical_ratio_of_v2(kept: float, p0: float, alpha: float, ratio: float) -> None:
    assert critical_ratio_v2(kept, math.log(p0), alpha) == pytest.approx(ratio)
    assert critical_ratio_v2(kept, 0.0, 0.0) is None


def test_closed_forms_are_where_the_law_crosses() -> None:
    for kept, beta in ((0.9, -1.0), (0.8, -0.7), (1.25, 1.6)):
        closed = critical_ratio_v1(kept, beta)
        assert closed == pytest.approx(float(crossing_ratio(V1, (1, beta, 0.5), 2.0, kept, 1e16, 1e6)), abs=0.002)
    closed = critical_ratio_v2(0.8, 0.02, 0.6)
    assert closed == pytest.approx(float(crossing_ratio(V2, (0.02, 0.6), 2.0, 0.8, 0, 1e6)), abs=0.002)


def test_a_law_that_stays_within_crosses_nowhere() -> None:
    sets = np.array([[1, 0.0, 0.0], [1, -2.0, 0.0]])
    assert list(crossing_ratio(V1, sets, 0.7, 0.9, 0, 1e6)) == [1.0, pytest.approx(0.055, abs=0.001)]


def test_laws_say_where_they_say_nothing() -> None:
    points = along_ratios(np.array([0.0, 0.5]), 2.0, 0, 1e6)
    assert list(P2.defined(points)) == [False, False]
    assert list(V1.defined(points)) == [True, True]
    assert list(P2.defined(along_ratios(np.array([0.0, 0.5]), 2.0, 1e6, 1e6))) == [False, True]
