"""Which stock class can express the pruned shapes: the configuration that goes into `config.json`.

Two stock classes refuse what head pruning makes, although the computation is theirs:

* Transformers' `LlamaConfig` refuses a hidden size that is no multiple of the head count, even with `head_dim` given.
  The same block without biases is `MistralForCausalLM` without a window; with biases it is `SeedOssForCausalLM`.
* vLLM's Qwen2 computes `hidden_size / heads` as head width and ignores `head_dim`. The same block with query, key and
  value biases is `SeedOssForCausalLM` with `attention_bias` on and `attention_out_bias` off.

Both re-labellings only rename the class: tensors and arithmetic stay, which verification confirms by comparing logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig

from artifacts.errors import UnsupportedModel
from artifacts.variant import LayerShape
from modeling.pruned_config import ARCHITECTURE as PER_LAYER
from modeling.pruned_config import CARRIED_FIELDS, MODEL_TYPES, SHAPE_KEYS, PrunedConfig, head_width, pruned_config

SHAPE_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
)


def checkpoint_config(base: Any, layers: Sequence[LayerShape], architecture: str, dtype: str) -> Any:
    """The configuration of the pruned model: a stock class where one loads these shapes, else the per-layer family.

    `base` is the configuration of the model that was pruned, of class `architecture`; `layers` has an entry for each of
    its layers; `dtype` is the name of the stored type, such as bfloat16. Raises UnsupportedModel for other families.
    """
    if architecture != PER_LAYER and is_uniform(layers):
        return stock_config(base, layers, architecture, dtype)
    if architecture == PER_LAYER:
        kept = [layer for layer in layers if layer.present]
        shapes = [{key: getattr(layer, key) for key in SHAPE_KEYS} for layer in kept]
        fields = base.to_dict() | {"layer_shapes": shapes, "num_hidden_layers": len(kept)}
        config: Any = PrunedConfig(**fields)
    else:
        config = pruned_config(base.to_dict(), layers, architecture)
    config.dtype = dtype
    return config


def stock_config(base: Any, layers: Sequence[LayerShape], architecture: str, dtype: str) -> Any:
    """The Transformers configuration of the pruned model.

    `base` is the configuration of the model that was pruned, of class `architecture`; `layers` has an entry for each of
    its layers, all present ones alike; `dtype` is the name of the stored type, such as bfloat16. Raises
    UnsupportedModel if no stock class loads these shapes.
    """
    kept = [layer for layer in layers if layer.present]
    shapes = _shapes(base, kept)
    target = _stock_architecture(base, kept[0], architecture)
    if target == architecture:
        fields = {**base.to_dict(), **shapes, **_trimmed_lists(base, kept)}
    else:
        fields = {**{name: getattr(base, name) for name in CARRIED_FIELDS}, **shapes}
        fields |= _added_fields(base, architecture, target)
    fields |= {"architectures": [target], "dtype": dtype, "model_type": MODEL_TYPES[target]}
    return AutoConfig.for_model(**fields)


def is_uniform(layers: Sequence[LayerShape]) -> bool:
    """Whether all layers that stay are alike and complete, which is all that stock classes can express."""
    shapes = {(layer.query_heads, layer.kv_heads, layer.ffn_width) for layer in layers if layer.present}
    return len(shapes) == 1 and all(min(shape) > 0 for shape in shapes)


def _stock_architecture(base: Any, layer: LayerShape, architecture: str) -> str:
    if architecture not in MODEL_TYPES:
        raise UnsupportedModel(f"{architecture} has no stock export. Supported are {', '.join(MODEL_TYPES)}.")
    if architecture == "LlamaForCausalLM" and base.hidden_size % layer.query_heads:
        return "SeedOssForCausalLM" if base.attention_bias or base.mlp_bias else "MistralForCausalLM"
    if architecture == "Qwen2ForCausalLM" and head_width(base) * layer.query_heads != base.hidden_size:
        return "SeedOssForCausalLM"
    return architecture


def _shapes(base: Any, kept: Sequence[LayerShape]) -> dict[str, int]:
    return {
        "num_hidden_layers": len(kept),
        "num_attention_heads": kept[0].query_heads,
        "num_key_value_heads": kept[0].kv_heads,
        "intermediate_size": kept[0].ffn_width,
        "head_dim": head_width(base),
    }


def _trimmed_lists(base: Any, kept: Sequence[LayerShape]) -> dict[str, Any]:
    """The configuration's entries that count or list layers, for the layers that stay."""
    fields: dict[str, Any] = {}
    if getattr(base, "layer_types", None) is not None:
        fields["layer_types"] = [base.layer_types[layer.index] for layer in kept]
    if getattr(base, "max_window_layers", None) is not None:
        fields["max_window_layers"] = sum(layer.index < base.max_window_layers for layer in kept)
    return fields


def _added_fields(base: Any, source: str, target: str) -> dict[str, Any]:
    """What the target class computes with beside the fields that are carried over."""
    if target == "MistralForCausalLM":
        return {"sliding_window": None}
    if source == "Qwen2ForCausalLM":
        biases = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}
    else:
        attention, mlp = bool(base.attention_bias), bool(base.mlp_bias)
        biases = {"attention_bias": attention, "attention_out_bias": attention, "mlp_bias": mlp}
    return {**biases, "residual_dropout": 0.0}
