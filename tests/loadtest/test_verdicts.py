"""Holm by hand, and a verdict that needs everything at once."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.run import Estimate
from loadtest.verdicts import holm_adjusted, verdict


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=8)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        pytest.param([], [], id="no question"),
        pytest.param([0.03], [0.03], id="one is not corrected"),
        pytest.param([0.01, 0.04, 0.03], [0.03, 0.06, 0.06], id="by hand: 3 x 0.01, 2 x 0.03, and no less than that"),
        pytest.param([0.5, 0.6], [1.0, 1.0], id="no more than 1"),
        pytest.param([0.02, 0.02], [0.04, 0.04], id="equal ones"),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm_adjusted(p_values) == pytest.approx(tuple(adjusted))


def test_holm_keeps_the_family_wise_error() -> None:
    """Twelve true null hypotheses: in at most 5 % of the families is any rejected, in about 46 % without correction."""
    families = np.random.default_rng(2).random((2000, 12))
    wrong = np.mean([min(holm_adjusted(family.tolist())) < 0.05 for family in families])
    assert wrong == pytest.approx(0.05, abs=0.015)
    assert np.mean(families.min(axis=1) < 0.05) > 0.4


FASTER = estimate(1.2, 1.1, 1.3)
SLOWER = estimate(0.8, 0.7, 0.9)
QUIET = estimate(1.0, 0.98, 1.02)


@pytest.mark.parametrize(
    ("measured", "p", "control", "said"),
    [
        pytest.param(FASTER, 0.001, QUIET, "faster", id="beyond all three"),
        pytest.param(SLOWER, 0.001, QUIET, "slower", id="below all three"),
        pytest.param(FASTER, 0.001, None, "faster", id="without a control two hold"),
        pytest.param(FASTER, None, QUIET, "faster", id="blocks that do not differ have no p value"),
        pytest.param(FASTER, 0.06, QUIET, "no difference shown", id="Holm takes it back"),
        pytest.param(FASTER, 0.001, estimate(1.0, 0.7, 1.4), "no difference shown", id="inside the control's band"),
        pytest.param(FASTER, 0.001, estimate(1.0, None, None), "no difference shown", id="a control without a band"),
        pytest.param(estimate(1.2, 0.9, 1.5), 0.001, QUIET, "no difference shown", id="1 is inside"),
        pytest.param(estimate(1.2, 1.0, 1.5), 0.001, QUIET, "no difference shown", id="1 is the end"),
        pytest.param(estimate(1.2, None, None), None, QUIET, "no difference shown", id="one block"),
    ],
)
def test_a_verdict_needs_everything(measured: Estimate, p: float | None, control: Estimate | None, said: str) -> None:
    assert verdict(measured, p, control) == said
