"""KV groups are whole: a KV head goes with all of its query heads, and no method can ask for anything else."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from coupled import evidence_of, gaussian
from tiny_models import build_model, logits_of, random_windows
from torch import Tensor

from compressors.arch import LayerView, ModelView
from compressors.methods import REGISTRY
from compressors.plan import LayerBudget, LayerPlan
from compressors.resident import prune_resident
from compressors.sequential import PruningJob
from compressors.surgery import keep_units, unit_slots

SILENT_GROUP = 2
HEAD_WIDTH, QUERY_HEADS_PER_GROUP = 32, 2
KV_METHODS = tuple(
    name for name in REGISTRY.names if "kv" in REGISTRY.named(name).units and not REGISTRY.named(name).learns
)


def silenced(family: str) -> Any:
    """Nobody reads what group 2 of any layer says."""
    model = build_model(family).double()
    for layer in ModelView(model).layers:
        group = layer.group("kv")
        group.consumer.weight[:, unit_slots((SILENT_GROUP,), group.columns_per_unit)] = 0
    return model


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen2", "qwen3"])
@pytest.mark.parametrize("method", sorted({*KV_METHODS} & {"wanda_sp", "flap", "taylor", "obs"}))
def test_a_group_that_nobody_reads_goes_without_a_trace(method: str, family: str) -> None:
    model = silenced(family)
    expected = logits_of(model)
    widths = (LayerBudget(kv_groups=3, ffn_channels=48),) * 3
    job = PruningJob(method=REGISTRY.named(method), units=("kv",), allocation=widths, repair="none", seed=0)
    plan = prune_resident(model, job, random_windows())
    assert {layer.kv_groups for layer in plan.layers} == {(0, 1, 3)}
    assert torch.allclose(logits_of(model), expected, atol=1e-9)


def test_all_shapes_of_a_layer_agree_after_a_group_went() -> None:
    model = build_model("qwen2")
    layer = LayerView(model.model.layers[0])
    keep_units(layer.group("kv"), (0, 1, 3))
    attention = model.model.layers[0].self_attn
    for name, rows in (("q_proj", 6 * HEAD_WIDTH), ("k_proj", 3 * HEAD_WIDTH), ("v_proj", 3 * HEAD_WIDTH)):
        linear = getattr(attention, name)
        assert linear.weight.shape == (rows, 64) and linear.bias.shape == (rows,) and linear.out_features == rows
    assert attention.o_proj.weight.shape == (64, 6 * HEAD_WIDTH)
    assert layer.shape(0).query_heads == 2 * layer.shape(0).kv_heads


def cut_query_heads(model: Any, removed: tuple[int, ...]) -> Tensor:
    """Logits after removing query heads one by one by hand: what an uneven plan would do, if there could be one."""
    kept = unit_slots(tuple(head for head in range(8) if head not in removed), HEAD_WIDTH)
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.q_proj.weight = torch.nn.Parameter(attention.q_proj.weight[kept], requires_grad=False)
        attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight[:, kept], requires_grad=False)
        attention.num_key_value_groups = (8 - len(removed)) // 4
    return logits_of(model)


def test_uneven_query_heads_would_be_wired_to_the_wrong_keys() -> None:
    """Why no plan may name query heads: one per group (8 over 4) stays exact, two groups emptied is silently wrong."""
    for removed, exact in (((1, 3, 5, 7), True), ((0, 1, 2, 3), False)):
        model = build_model().double()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, unit_slots(removed, HEAD_WIDTH)] = 0
        expected = logits_of(model)
        error = float((cut_query_heads(model, removed) - expected).abs().max())
        assert (error < 1e-9) is exact and (exact or error > 0.1)


def test_a_plan_cannot_name_query_heads() -> None:
    assert {field.name for field in fields(LayerPlan)} == {"kv_groups", "ffn_channels"}
    with pytest.raises(TypeError, match="query_heads"):
        LayerPlan(kv_groups=(0,), ffn_channels=(0,), query_heads=(0, 1, 2))  # type: ignore[call-arg]


@pytest.mark.parametrize("method", KV_METHODS)
def test_every_method_ranks_whole_groups(method: str) -> None:
    """As many ranks as groups, each once, whatever the number of query heads."""
    model = build_model()
    model.requires_grad_(True)
    windows = random_windows(4, 12)
    model(input_ids=windows, labels=windows, use_cache=False).loss.backward()
    model.requires_grad_(False)
    chosen = REGISTRY.named(method)
    assert chosen.rank_width is not None
    group = ModelView(model).layers[0].group("kv")
    assert group.columns_per_unit == QUERY_HEADS_PER_GROUP * HEAD_WIDTH
    inputs = gaussian(400, group.consumer.weight.shape[1]).float()
    ranking = chosen.rank_width(chosen.config, evidence_of(group, inputs, most_removed=3))
    assert sorted(ranking.order) == [0, 1, 2, 3]
