"""Cutting equals masking: a removed unit is one that nobody reads any more."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, logits_of

from compressors.arch import LayerView, ModelView, WidthUnit
from compressors.surgery import keep_units, remove_half, unit_slots

KEPT: dict[WidthUnit, tuple[int, ...]] = {"ffn": tuple(range(0, 48, 3)), "kv": (0, 2, 3)}


def mask(model: Any, unit: WidthUnit) -> None:
    """Zeroes what the consumer reads from the units that are not kept."""
    for layer in ModelView(model).layers:
        group = layer.group(unit)
        removed = tuple(sorted(set(range(group.count)) - set(KEPT[unit])))
        group.consumer.weight[:, unit_slots(removed, group.columns_per_unit)] = 0


def cut(model: Any, unit: WidthUnit) -> None:
    for layer in ModelView(model).layers:
        keep_units(layer.group(unit), KEPT[unit])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", ["ffn", "kv"])
def test_masking_equals_slicing(family: str, unit: WidthUnit) -> None:
    masked, sliced = build_model(family).double(), build_model(family).double()
    dense = logits_of(masked)
    mask(masked, unit)
    cut(sliced, unit)
    assert torch.allclose(logits_of(sliced), logits_of(masked), atol=1e-12)
    assert (logits_of(sliced) - dense).abs().max() > 1e-3, "the removed units did matter"


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_follow_the_plan(family: str) -> None:
    model = build_model(family)
    cut(model, "ffn")
    cut(model, "kv")
    layer = LayerView(model.model.layers[1])
    assert (layer.query_heads, layer.kv_heads, layer.ffn_width) == (6, 3, 16)
    attention = model.model.layers[1].self_attn
    assert attention.q_proj.weight.shape == (6 * 32, 64) and attention.q_proj.out_features == 6 * 32
    assert attention.v_proj.weight.shape == (3 * 32, 64) and attention.o_proj.weight.shape == (64, 6 * 32)
    assert model.model.layers[1].mlp.down_proj.in_features == 16


def test_slices_are_the_kept_rows_and_columns_bit_for_bit() -> None:
    model = build_model("llama-biased")
    before = copy.deepcopy(model.model.layers[0])
    cut(model, "kv")
    after, rows = model.model.layers[0].self_attn, unit_slots(KEPT["kv"], 32)
    assert torch.equal(after.k_proj.weight, before.self_attn.k_proj.weight[rows])
    assert torch.equal(after.k_proj.bias, before.self_attn.k_proj.bias[rows])
    assert torch.equal(after.o_proj.bias, before.self_attn.o_proj.bias), "the consumer's bias belongs to no unit"
    columns = unit_slots(KEPT["kv"], 64)
    assert torch.equal(after.o_proj.weight, before.self_attn.o_proj.weight[:, columns])


def test_keeping_everything_touches_nothing() -> None:
    group = LayerView(build_model().model.layers[0]).group("kv")
    linears = [group.consumer, *(producer.linear for producer in group.producers)]
    before = [linear.weight for linear in linears]
    keep_units(group, tuple(range(group.count)))
    assert all(linear.weight is weight for linear, weight in zip(linears, before, strict=True))


def test_unit_slots_are_consecutive_per_unit() -> None:
    assert unit_slots((0, 2), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert unit_slots((), 3).tolist() == []


@pytest.mark.parametrize("unit", ["kv", "ffn"])
def test_a_removed_half_lets_the_residual_stream_pass(unit: WidthUnit) -> None:
    layer = LayerView(build_model().model.layers[0])
    states = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    assert layer.has(unit) and layer.count(unit) > 0
    remove_half(layer, unit)
    assert not layer.has(unit) and layer.count(unit) == 0
    assert torch.equal(layer.run(unit, states, {}), states)
    names = {name for name, _ in layer.module.named_parameters()}
    half, norm = ("self_attn", "input_layernorm") if unit == "kv" else ("mlp", "post_attention_layernorm")
    assert not any(name.startswith((half, norm)) for name in names) and names
    shape = layer.shape(0)
    assert (shape.kv_heads == 0) == (unit == "kv") and (shape.ffn_width == 0) == (unit == "ffn")
