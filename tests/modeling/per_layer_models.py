"""Per-layer pruned models of every base family: dense, masked, and cut, from one list of what each layer keeps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from artifacts.variant import LayerShape
from compressors.arch import LayerView, ModelView, WidthUnit
from compressors.surgery import keep_units, unit_slots
from modeling.pruned_config import pruned_config
from modeling.pruned_model import PrunebenchForCausalLM
from tests.compressors.tiny_models import build_model

ATTENTION = ("self_attn.", "input_layernorm.")
FFN = ("mlp.", "post_attention_layernorm.")


@dataclass(frozen=True)
class Kept:
    """The KV groups and FFN channels that one layer keeps; empty means that this half of the layer is gone."""

    kv: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def is_whole_layer_gone(self) -> bool:
        return not self.kv and not self.ffn


ALL_KV, ALL_FFN = tuple(range(4)), tuple(range(48))
EVERYTHING = Kept(ALL_KV, ALL_FFN)
# Both kinds of missing halves, layer 0 without attention, three KV group counts and three FFN widths.
MIXED = (
    Kept((), tuple(range(0, 48, 3))),
    Kept((0, 2, 3), ()),
    Kept((1,), tuple(range(8, 48))),
    Kept(ALL_KV, tuple(range(1, 48, 2))),
    Kept((1, 3), ALL_FFN),
)
# Architecture, family in tiny_models, changes to its configuration.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-tied": ("LlamaForCausalLM", "llama", {}),
    "llama-biased": ("LlamaForCausalLM", "llama-biased", {}),
    "llama-scaled-rope": (
        "LlamaForCausalLM",
        "llama",
        {
            "tie_word_embeddings": False,
            "rope_parameters": {
                **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
            },
        },
    ),
    "mistral": ("MistralForCausalLM", "mistral", {}),
    "qwen2-tied": ("Qwen2ForCausalLM", "qwen2", {}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", {}),
    "qwen3-tied": ("Qwen3ForCausalLM", "qwen3", {"tie_word_embeddings": True}),
}


def dense(case: str, layers: int = len(MIXED)) -> Any:
    _, family, changes = CASES[case]
    return build_model(family, num_hidden_layers=layers, **changes)


def masked(model: Any, kept: tuple[Kept, ...]) -> Any:
    """A dense copy in which nobody reads what is not kept: zero columns, and no bias behind a half that is gone."""
    result = copy.deepcopy(model)
    for layer, keep in zip(ModelView(result).layers, kept, strict=True):
        _mask(layer, "kv", keep.kv)
        _mask(layer, "ffn", keep.ffn)
    return result


def _mask(layer: LayerView, unit: WidthUnit, kept: tuple[int, ...]) -> None:
    group = layer.group(unit)
    removed = tuple(sorted(set(range(group.count)) - set(kept)))
    group.consumer.weight[:, unit_slots(removed, group.columns_per_unit)] = 0
    if not kept and group.consumer.bias is not None:
        group.consumer.bias.zero_()


def cut_stock(model: Any, kept: tuple[Kept, ...]) -> Any:
    """A copy of the stock model with sliced tensors; halves that are gone stay whole."""
    result = copy.deepcopy(model)
    for layer, keep in zip(ModelView(result).layers, kept, strict=True):
        for unit, units in (("kv", keep.kv), ("ffn", keep.ffn)):
            if units:
                keep_units(layer.group(unit), units)
    return result


def cut(model: Any, kept: tuple[Kept, ...], architecture: str) -> PrunebenchForCausalLM:
    """The same function in the pruned family, with nothing but the kept tensors."""
    stock = cut_stock(model, kept)
    result = PrunebenchForCausalLM(pruned_config(model.config.to_dict(), shapes_of(stock, kept), architecture))
    tensors = {name: tensor for name, tensor in stock.state_dict().items() if not _is_gone(name, kept)}
    result.load_state_dict(_renumbered(tensors, kept))
    return result.eval().requires_grad_(False)


def shapes_of(stock: Any, kept: tuple[Kept, ...]) -> tuple[LayerShape, ...]:
    return tuple(
        LayerShape(
            index=index,
            present=not keep.is_whole_layer_gone,
            query_heads=layer.query_heads if keep.kv else 0,
            kv_heads=layer.kv_heads if keep.kv else 0,
            ffn_width=layer.ffn_width if keep.ffn else 0,
        )
        for index, (layer, keep) in enumerate(zip(ModelView(stock).layers, kept, strict=True))
    )


def _is_gone(name: str, kept: tuple[Kept, ...]) -> bool:
    if not name.startswith("model.layers."):
        return False
    _, _, index, rest = name.split(".", 3)
    keep = kept[int(index)]
    return rest.startswith(() if keep.kv else ATTENTION) or rest.startswith(() if keep.ffn else FFN)


def _renumbered(tensors: dict[str, torch.Tensor], kept: tuple[Kept, ...]) -> dict[str, torch.Tensor]:
    present = [index for index, keep in enumerate(kept) if not keep.is_whole_layer_gone]
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            parts[2] = str(present.index(int(parts[2])))
        renamed[".".join(parts)] = tensor
    return renamed
