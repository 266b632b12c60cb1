"""Models whose best removal is known beforehand, and the evidence to ask a depth method with."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from tiny_models import build_model, random_windows

from compressors.arch import LayerView
from compressors.depth import DepthEvidence, DepthUnit
from compressors.plan import LayerBudget
from compressors.resident import ResidentModel

FULL = LayerBudget(kv_groups=4, ffn_channels=48)


def depth_evidence(model: Any, removed: Mapping[DepthUnit, int], seed: int = 0) -> DepthEvidence:
    return DepthEvidence(
        base=(FULL,) * len(model.model.layers),
        removed=removed,
        model=ResidentModel(model),
        windows=random_windows(),
        random=Random(seed),
    )


def silence(model: Any, index: int, *halves: str) -> None:
    """Makes halves of a layer ("kv", "ffn") write nothing, biases included."""
    for half in halves:
        consumer = LayerView(model.model.layers[index]).group(half).consumer  # type: ignore[arg-type]
        consumer.weight.zero_()
        if consumer.bias is not None:
            consumer.bias.zero_()


def cancelling_pair(layers: int, first: int, size: float, *, hidden: bool) -> Any:
    """A biased model in which layer `first` only adds a constant vector and the next layer only takes it away.

    A `hidden` vector lies where no norm looks, so that alone it acts through the lengths that the norms divide by.
    """
    model = build_model("llama-biased", num_hidden_layers=layers)
    for index, sign in ((first, 1.0), (first + 1, -1.0)):
        silence(model, index, "kv", "ffn")
        model.model.layers[index].mlp.down_proj.bias[:8] = sign * size
    for name, parameter in model.named_parameters():
        if hidden and "norm" in name:
            parameter[:8] = 0.0
    return model


def logit_distance(model: Any, other: Any) -> float:
    windows = random_windows()
    with torch.inference_mode():
        wanted, given = (m(input_ids=windows, use_cache=False).logits for m in (model, other))
    return float((wanted - given).abs().max())
