"""The comparison of p99 with p99: interpolation as Prometheus does it, and a bucket's width as the measure."""

from __future__ import annotations

import math

import pytest

from benchmarks.dashboard_agreement import bucket_of, compared, increases, interpolated

BOUNDS = (0.01, 0.02, 0.05, 0.1, math.inf)


def counted(values: list[float]) -> dict[float, float]:
    return {bound: float(sum(value <= bound for value in values)) for bound in BOUNDS}


def test_quantile_is_linear_within_its_bucket() -> None:
    counts = {0.01: 0.0, 0.02: 50.0, 0.05: 100.0, math.inf: 100.0}
    assert interpolated(0.5, counts) == pytest.approx(0.02)
    assert interpolated(0.99, counts) == pytest.approx(0.02 + 0.03 * 49 / 50)
    assert interpolated(0.25, counts) == pytest.approx(0.015)


def test_first_bucket_begins_at_zero_and_the_last_ends_at_its_bound() -> None:
    assert interpolated(0.5, {0.01: 100.0, math.inf: 100.0}) == pytest.approx(0.005)
    assert interpolated(0.99, {0.01: 10.0, math.inf: 100.0}) == 0.01


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.005, (0.0, 0.01)), (0.01, (0.0, 0.01)), (0.03, (0.02, 0.05)), (7.0, (0.05, 0.1))]
)
def test_bucket_of_a_value(value: float, bucket: tuple[float, float]) -> None:
    assert bucket_of(value, list(BOUNDS)) == bucket


def test_only_what_came_between_counts() -> None:
    before = counted([0.09] * 7)
    after = counted([0.09] * 7 + [0.015] * 3)
    assert increases(before, after) == counted([0.015] * 3)
    assert increases({}, after) == after


def test_same_values_agree_and_others_do_not() -> None:
    values = [0.03 + 0.0001 * index for index in range(100)]
    found = compared(values, counted(values))
    assert found["agrees"] is True
    assert found["bucket_s"] == [0.02, 0.05]
    assert found["requests"] == found["observations"] == 100
    assert compared([0.015] * 100, counted([0.09] * 100))["agrees"] is False
