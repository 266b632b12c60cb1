"""Quantities as people read them."""

from __future__ import annotations

import pytest

from artifacts.units import format_bytes, format_count, format_ratio, format_seconds, quantity


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_485_760, "10.0 MiB"), (2**50, "1024.0 TiB")],
)
def test_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0 s"),
        (12.3e-6, "12.3 µs"),
        (0.00312, "3.12 ms"),
        (2.5, "2.5 s"),
        (59.4, "59.4 s"),
        (125, "2 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7320, "2 h 02 min"),
    ],
)
def test_seconds(duration_s: float, text: str) -> None:
    assert format_seconds(duration_s) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12"), (5_115_072, "5.12 M"), (1500, "1.5 k"), (8.03e9, "8.03 G")])
def test_counts(count: float, text: str) -> None:
    assert format_count(count) == text


def test_ratio() -> None:
    assert format_ratio(0.1234) == "12.3 %"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.98e9, "Hz", "1.98 GHz"),
        (700.0, "W", "700 W"),
        (1.25, "J", "1.25 J"),
        (0.0042, "J", "4.2 mJ"),
        (-0.25, "J", "-250 mJ"),
        (3.1e-5, "J", "31 µJ"),
        (0.0, "J", "0 J"),
        (61, "°C", "61 °C"),
    ],
)
def test_a_quantity_has_the_prefix_that_suits_it(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
