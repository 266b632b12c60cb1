"""The normal approximation to a share, where it can be worked out by hand."""

from __future__ import annotations

import pytest

from laws.normal import NORMAL_95, share_half_width


@pytest.mark.parametrize(
    ("share", "items", "half"), [(0.5, 100, 0.098), (0.2, 400, 0.0392), (0.0, 7, 0.0), (1.0, 7, 0.0)]
)
def test_half_a_width_is_two_standard_errors_or_so(share: float, items: int, half: float) -> None:
    assert share_half_width(share, items) == pytest.approx(half, rel=1e-12)
    assert share_half_width(1 - share, items) == pytest.approx(half, rel=1e-12)


def test_four_times_the_items_halve_it() -> None:
    assert share_half_width(0.3, 400) == pytest.approx(share_half_width(0.3, 100) / 2)
    assert NORMAL_95 == 1.96
