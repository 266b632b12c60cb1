"""Which splits are refused, and whether the advice in the refusal is right."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from modeling.tensor_parallel import require_divisible


def shape(query_heads: int, kv_heads: int, ffn_width: int) -> dict[str, int]:
    return {"query_heads": query_heads, "kv_heads": kv_heads, "ffn_width": ffn_width}


@pytest.mark.parametrize(
    ("layer", "devices"),
    [
        (shape(32, 8, 14336), 8),
        (shape(32, 8, 14336), 16),
        (shape(8, 1, 8), 8),
        (shape(12, 6, 24), 3),
        (shape(0, 0, 8), 8),
        (shape(8, 8, 0), 8),
        (shape(7, 7, 13), 1),
    ],
)
def test_even_splits_pass(layer: dict[str, int], devices: int) -> None:
    require_divisible([layer], devices)


@pytest.mark.parametrize(
    ("layer", "devices", "message"),
    [
        (
            shape(12, 6, 16),
            4,
            "Layer 1 has 6 KV heads, which 4 devices cannot share. Use a tensor-parallel size of 1 or 2",
        ),
        (shape(6, 2, 16), 4, "Layer 1 has 6 query heads"),
        (shape(8, 4, 10), 4, "Layer 1 has 10 FFN channels"),
        (
            shape(0, 0, 5),
            2,
            "Layer 1 has 5 FFN channels, which 2 devices cannot share. Use a tensor-parallel size of 1,",
        ),
        (shape(6, 6, 6), 2, None),
    ],
)
def test_the_first_layer_that_does_not_fit_is_named(layer: dict[str, int], devices: int, message: str | None) -> None:
    shapes = [shape(16, 8, 32), layer, shape(1, 1, 1) if message else shape(2, 2, 2)]
    if message is None:
        require_divisible(shapes, devices)
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        require_divisible(shapes[:2], devices)
    with pytest.raises(ConfigError, match="Layer 1 "):
        require_divisible(shapes, devices)


def one_device_runs(layer: dict[str, int], devices: int) -> bool:
    """Deals heads and channels out one by one and looks whether all devices hold the same and hold their KV heads."""
    hands = [{"queries": 0, "groups": set(), "width": 0} for _ in range(devices)]
    for head in range(layer["query_heads"]):
        hand = hands[head * devices // layer["query_heads"]]
        hand["queries"] += 1
        hand["groups"].add(head * layer["kv_heads"] // layer["query_heads"])
    for channel in range(layer["ffn_width"]):
        hands[channel % devices]["width"] += 1
    same = len({(hand["queries"], len(hand["groups"]), hand["width"]) for hand in hands}) == 1
    copies = sum(len(hand["groups"]) for hand in hands)
    return same and copies in {layer["kv_heads"], devices if layer["kv_heads"] else 0}


@given(groups=st.integers(0, 6), per_group=st.integers(1, 4), width=st.integers(0, 12), devices=st.integers(1, 6))
def test_refused_is_what_cannot_be_dealt_out(groups: int, per_group: int, width: int, devices: int) -> None:
    layer = shape(groups * per_group, groups, width)
    try:
        require_divisible([layer], devices)
        accepted = True
    except ConfigError as error:
        accepted = False
        for size in map(int, re.findall(r"\d+", str(error).split("size of")[1].split(",")[0])):
            require_divisible([layer], size)
    if accepted:
        assert one_device_runs(layer, devices)
    elif layer["query_heads"] % devices == 0:
        assert not one_device_runs(layer, devices)
