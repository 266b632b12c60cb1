"""Which stock class can express the pruned shapes: the configuration that goes into `config.json`.

Two stock classes refuse what head pruning makes, although the computation is theirs:

* Transformers' `LlamaConfig` refuses a hidden size that is no multiple of the head count, even with `head_dim` given.
  The same block without biases is `MistralForCausalLM` without a window; with biases it is `SeedOssForCausalLM`.
* vLLM's Qwen2 computes `hidden_size / heads` as head width and ignores `head_dim`. The same block with query, key and
  value biases is `SeedOssForCausalLM` with `attention_bias` on and `attention_out_bias` off.

Both re-labellings only rename the class: tensors and arithmetic stay, which verification confirms by comparing logits.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from artifacts.errors import UnsupportedModel
from compressors.arch import ModelView

_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SeedOssForCausalLM": "seed_oss",
}

SHAPE_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
)

# What every class computes with; anything else a class adds has to be given by the re-labelling.
_SHARED_FIELDS = (
    *("vocab_size", "hidden_size", "hidden_act", "rms_norm_eps", "rope_parameters", "max_position_embeddings"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("initializer_range", "attention_dropout", "use_cache"),
)


def stock_config(view: ModelView, architecture: str, dtype: str) -> Any:
    """The Transformers configuration of the pruned model; `dtype` is the name of the stored type, such as bfloat16."""
    shapes = _shapes(view)
    target = stock_architecture(view, architecture)
    if target == architecture:
        fields = {**view.config.to_dict(), **shapes}
    else:
        fields = {**{name: getattr(view.config, name) for name in _SHARED_FIELDS}, **shapes}
        fields |= _added_fields(view, architecture, target)
    fields |= {"architectures": [target], "dtype": dtype, "model_type": _MODEL_TYPES[target]}
    return AutoConfig.for_model(**fields)


def stock_architecture(view: ModelView, architecture: str) -> str:
    """The class that loads these shapes everywhere. Raises UnsupportedModel if there is none."""
    layer, hidden = view.layers[0], view.config.hidden_size
    if architecture == "LlamaForCausalLM" and hidden % layer.query_heads:
        has_bias = view.config.attention_bias or view.config.mlp_bias
        return "SeedOssForCausalLM" if has_bias else "MistralForCausalLM"
    if architecture == "Qwen2ForCausalLM" and layer.head_dim * layer.query_heads != hidden:
        return "SeedOssForCausalLM"
    if architecture not in _MODEL_TYPES:
        raise UnsupportedModel(f"{architecture} has no stock export. Supported are {', '.join(_MODEL_TYPES)}.")
    return architecture


def _shapes(view: ModelView) -> dict[str, int]:
    layers = view.layers
    return {
        "num_hidden_layers": len(layers),
        "num_attention_heads": layers[0].query_heads,
        "num_key_value_heads": layers[0].kv_heads,
        "intermediate_size": layers[0].ffn_width,
        "head_dim": layers[0].head_dim,
    }


def _added_fields(view: ModelView, source: str, target: str) -> dict[str, Any]:
    if target == "MistralForCausalLM":
        return {"sliding_window": None}
    if source == "Qwen2ForCausalLM":
        biases = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}
    else:
        attention, mlp = bool(view.config.attention_bias), bool(view.config.mlp_bias)
        biases = {"attention_bias": attention, "attention_out_bias": attention, "mlp_bias": mlp}
    return {**biases, "residual_dropout": 0.0}
