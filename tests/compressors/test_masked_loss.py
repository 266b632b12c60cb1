"""Masks by hooks say what surgery would: the same loss as the cut model's, many at once, and nothing is left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, random_windows
from torch.nn import functional

from compressors.arch import LayerView
from compressors.depth import DepthUnit
from compressors.mask_layout import DepthLayout, WidthLayout
from compressors.masked_loss import MaskedLoss
from compressors.plan import LayerBudget
from compressors.resident import ResidentModel
from compressors.surgery import keep_units, remove_half

BASE = (LayerBudget(kv_groups=4, ffn_channels=48),) * 3
WINDOWS = random_windows(5, 12)


def loss_of(model: Any, windows: torch.Tensor) -> float:
    with torch.inference_mode():
        logits = model(input_ids=windows, use_cache=False).logits
    return float(functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), windows[:, 1:].flatten()))


def masked_loss(model: Any, layout: WidthLayout | DepthLayout, *, resident: bool = True) -> MaskedLoss:
    return MaskedLoss.on(ResidentModel(model), WINDOWS, layout.spread, batch_tokens=24, seed=0, resident=resident)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resident", [True, False])
def test_the_loss_is_that_of_the_cut_model(family: str, resident: bool) -> None:
    """Two masks together: everything, and a third of all units gone, in one layer all of the FFN."""
    model = build_model(family)
    layout = WidthLayout.of(BASE, ("kv", "ffn"))
    masks = torch.ones(2, layout.size, dtype=torch.float64)
    masks[1, ::3] = 0
    masks[1, layout.spans[1, "ffn"]] = 0
    losses = masked_loss(model, layout, resident=resident).losses_on(masks, [0, 3])
    cut = copy.deepcopy(model)
    for (index, unit), span in layout.spans.items():
        layer, kept = LayerView(cut.model.layers[index]), masks[1, span].nonzero().flatten().tolist()
        if kept:
            keep_units(layer.group(unit), tuple(kept))
        else:
            without = masks[1, span]
            assert not without.any()
            layer.ffn.down_proj.weight.zero_()
            if layer.ffn.down_proj.bias is not None:
                layer.ffn.down_proj.bias.zero_()
    wanted = [loss_of(each, WINDOWS[[0, 3]]) for each in (model, cut)]
    assert losses.tolist() == pytest.approx(wanted, abs=2e-6)
    assert abs(wanted[0] - wanted[1]) > 1e-3


@pytest.mark.parametrize(("kind", "half"), [("layers", None), ("attention_sublayers", "kv"), ("ffn_sublayers", "ffn")])
def test_a_whole_half_without_its_coin_is_a_half_that_was_removed(kind: DepthUnit, half: Any) -> None:
    """In a model with biases, which a removed half does not write either."""
    model = build_model("llama-biased")
    layout = DepthLayout.of(BASE, {kind: 1})
    masks = torch.ones(3, 3, dtype=torch.float64)
    masks[1, 1] = masks[2, 2] = 0
    losses = masked_loss(model, layout).losses_on(masks, [1, 2, 4])
    for place, index in ((1, 1), (2, 2)):
        cut = copy.deepcopy(model)
        layer = LayerView(cut.model.layers[index])
        for unit in ("kv", "ffn") if half is None else (half,):
            consumer = layer.group(unit).consumer
            consumer.weight.zero_()
            consumer.bias.zero_()
        assert float(losses[place]) == pytest.approx(loss_of(cut, WINDOWS[[1, 2, 4]]), abs=2e-6)
    assert len({round(float(loss), 6) for loss in losses}) == 3


def test_nothing_stays_behind_and_a_step_decides_the_text() -> None:
    model = build_model()
    layout = WidthLayout.of(BASE, ("ffn",))
    objective = masked_loss(model, layout)
    assert objective.batch == 2 and objective.layers is not None
    one = torch.ones(1, layout.size, dtype=torch.float64)
    before = [float(objective.losses(one, step)) for step in range(6)]
    objective.losses(torch.zeros_like(one), 0)
    assert [float(objective.losses(one, step)) for step in range(6)] == before
    assert len(set(before)) > 2
    consumers = [view.group("ffn").consumer for view in objective.layers]
    assert not any(consumer._forward_pre_hooks or consumer._forward_hooks for consumer in consumers)


def test_a_removed_half_is_passed_by() -> None:
    model = build_model()
    remove_half(LayerView(model.model.layers[1]), "ffn")
    left = (BASE[0], LayerBudget(kv_groups=4, ffn_channels=0), BASE[2])
    layout = WidthLayout.of(left, ("ffn",))
    assert set(layout.spans) == {(0, "ffn"), (2, "ffn")} and layout.size == 96
    assert float(masked_loss(model, layout).losses_on(torch.ones(1, 96), [0])) > 0
