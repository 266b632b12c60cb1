"""The nominal ratio becomes whole units that exist."""

from __future__ import annotations

import pytest

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.budget import Budget, Dimensions, budget_for, default_multiple
from compressors.depth import DepthUnit

BASE = Dimensions(layers=5, kv_heads=4, ffn_width=172, hidden_size=64)
WIDE = Dimensions(layers=32, kv_heads=8, ffn_width=14336, hidden_size=4096)


@pytest.mark.parametrize(
    ("ratio", "units", "multiple", "expected", "sentence"),
    [
        (0.25, ("ffn",), 1, (5, 4, 129), "a quarter of 172 channels is exactly 43"),
        (0.25, ("ffn",), 8, (5, 4, 128), "129 is nearest to 128"),
        (0.25, ("ffn",), 100, (5, 4, 100), "the only multiple of 100 that exists in 172"),
        (0.99, ("ffn",), 16, (5, 4, 16), "at least one multiple stays"),
        (0.03, ("ffn",), 10, (5, 4, 170), "167 rounds to 170, which is below 172"),
        (0.25, ("kv",), 1, (5, 3, 172), "one of four groups goes"),
        (0.25, ("kv", "ffn"), 1, (5, 3, 129), "the same share of each kind"),
        (0.4, ("kv",), 1, (5, 2, 172), "1.6 groups round to 2"),
        (0.625, ("kv",), 1, (5, 1, 172), "2.5 groups round up to 3 removed"),
        (0.2, ("layers",), 1, (4, 4, 172), "one of five layers"),
        (0.3, ("layers",), 1, (3, 4, 172), "1.5 layers round up to 2 removed, in spite of binary fractions"),
        (0.0, ("ffn", "kv"), 100, (5, 4, 172), "ratio 0 leaves a width that is no multiple alone"),
        (0.05, ("kv", "ffn"), 1, (5, 4, 163), "one kind may round to nothing if the other does not"),
    ],
)
def test_kept_units(
    ratio: float, units: tuple[Unit, ...], multiple: int, expected: tuple[int, int, int], sentence: str
) -> None:
    layers, kv_heads, ffn_width = expected
    removed: dict[DepthUnit, int] = {"layers": 5 - layers} if "layers" in units else {}
    budget = Budget(kv_heads=kv_heads, ffn_width=ffn_width, hidden_size=64, multiple_of=multiple, removed=removed)
    assert budget_for(ratio, units, BASE, multiple) == budget, sentence


@pytest.mark.parametrize(
    ("ratio", "units", "multiple", "fragment"),
    [
        (1.0, ("ffn",), 1, "ratio is 1; it must be at least 0 and below 1"),
        (-0.1, ("ffn",), 1, "ratio is -0.1"),
        (float("nan"), ("ffn",), 1, "ratio is nan"),
        (0.25, ("ffn",), 173, "FFN width 172 cannot be rounded to a multiple of 173"),
        (0.25, ("ffn",), 0, "multiple of 0"),
        (0.9, ("kv",), 1, "would leave no KV group of 4. The largest possible ratio is 0.75"),
        (0.95, ("layers",), 1, "would leave no layer of 5"),
        (0.05, ("kv",), 1, "rounds to no removed unit (4 KV groups"),
        (0.001, ("ffn",), 4, "FFN width 172, multiple of 4"),
    ],
)
def test_refused(ratio: float, units: tuple[Unit, ...], multiple: int, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        budget_for(ratio, units, BASE, multiple)
    assert fragment in str(caught.value)


def test_default_multiple_is_128_from_width_1024_on() -> None:
    assert (default_multiple(1023), default_multiple(1024)) == (1, 128)
    assert budget_for(0.3, ("ffn",), WIDE, None).ffn_width == 78 * 128  # 10035.2 channels are 78.4 multiples


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.37, 0.5, 0.77, 0.9, 0.99])
@pytest.mark.parametrize("multiple", [1, 64, 128, 256])
def test_wide_widths_are_near_and_aligned(ratio: float, multiple: int) -> None:
    kept = budget_for(ratio, ("ffn",), WIDE, multiple).ffn_width
    assert kept % multiple == 0
    assert multiple <= kept < WIDE.ffn_width
    assert abs(kept - (1 - ratio) * WIDE.ffn_width) <= multiple / 2 or kept == multiple
