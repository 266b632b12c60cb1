"""What does a checkpoint whose layers differ say about itself?

Stock configurations give one head count and one FFN width for all layers. `PrunedConfig` adds one entry per layer. It
derives from `MistralConfig`, the plainest stock configuration that allows a head width of its own: `LlamaConfig`
refuses head counts that do not divide the hidden size, which is what removing heads makes.

The five base families are one block with four switches, so one class covers them:

| base    | qkv_bias | attention_out_bias | mlp_bias | qk_norm |
| ------- | -------- | ------------------ | -------- | ------- |
| Llama   | attention_bias | attention_bias | mlp_bias | no    |
| Mistral | no       | no                 | no       | no      |
| Qwen2   | yes      | no                 | no       | no      |
| Qwen3   | no       | no                 | no       | yes     |
| SeedOss | attention_bias | attention_out_bias | mlp_bias | no |
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from transformers import AutoConfig, MistralConfig

from artifacts.errors import ConfigError, UnsupportedModel
from artifacts.variant import LayerShape

ARCHITECTURE = "PrunebenchForCausalLM"
MODEL_TYPE = "prunebench"
SHAPE_KEYS = ("query_heads", "kv_heads", "ffn_width")

# The classes whose block this family's is, and what Transformers calls their configurations.
MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SeedOssForCausalLM": "seed_oss",
}

# What the computation depends on beside shapes and switches, and what generation reads.
CARRIED_FIELDS = (
    *("vocab_size", "hidden_size", "hidden_act", "rms_norm_eps", "rope_parameters", "max_position_embeddings"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("initializer_range", "attention_dropout", "use_cache", "dtype"),
)


class PrunedConfig(MistralConfig):
    """`config.json` of a checkpoint with per-layer shapes.

    `layer_shapes[i]` is `{"query_heads": H, "kv_heads": G, "ffn_width": F}` of layer i of this checkpoint; without
    heads its attention and that norm are absent, with width 0 its FFN and that norm. Left empty, all layers have the
    flat shape. The flat fields (`num_attention_heads`, `num_key_value_heads`, `intermediate_size`) hold the largest
    value of any layer, for readers that size buffers. `qkv_bias` and the other switches are the table above.

    Raises ConfigError if shapes, layer count or switches contradict each other.
    """

    model_type = MODEL_TYPE

    sliding_window: int | None = None
    layer_shapes: list[dict[str, int]] = field(default_factory=list)
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not self.layer_shapes:
            self.layer_shapes = self._flat_shapes()
        elif self.head_dim is None:
            raise ConfigError("head_dim is missing; with layer_shapes it must be given, no head count implies it.")
        require_consistent(self.layer_shapes, self.num_hidden_layers)
        self._require_served_switches()
        self.num_attention_heads = max(shape["query_heads"] for shape in self.layer_shapes)
        self.num_key_value_heads = max(shape["kv_heads"] for shape in self.layer_shapes)
        self.intermediate_size = max(shape["ffn_width"] for shape in self.layer_shapes)
        super().__post_init__(**kwargs)

    def for_layer(self, index: int) -> PrunedConfig:
        """A copy whose flat fields are this layer's own, for modules that are built from flat fields."""
        shape = self.layer_shapes[index]
        flat = copy.copy(self)
        flat.num_attention_heads = shape["query_heads"]
        flat.num_key_value_heads = shape["kv_heads"]
        flat.intermediate_size = shape["ffn_width"]
        return flat

    def _flat_shapes(self) -> list[dict[str, int]]:
        values = (self.num_attention_heads, self.num_key_value_heads, self.intermediate_size)
        return [dict(zip(SHAPE_KEYS, values, strict=True)) for _ in range(self.num_hidden_layers)]

    def _require_served_switches(self) -> None:
        if self.qk_norm and (self.qkv_bias or self.attention_out_bias):
            raise ConfigError(
                "qk_norm is set together with an attention bias, which vLLM's attention with norms does not compute. "
                "Set qkv_bias and attention_out_bias to false."
            )
        if self.sliding_window is not None:
            raise ConfigError(
                f"sliding_window is {self.sliding_window}; per-layer shapes allow full attention only. Set it to null."
            )


def require_consistent(shapes: Sequence[Mapping[str, int]], layers: int) -> None:
    """Raises ConfigError naming the first layer whose numbers cannot be a layer, or a wrong number of layers."""
    if len(shapes) != layers:
        raise ConfigError(
            f"layer_shapes has {len(shapes)} entries, num_hidden_layers is {layers}. Give one entry per layer."
        )
    for index, shape in enumerate(shapes):
        _require_layer(index, shape)
    if not any(shape["kv_heads"] for shape in shapes):
        raise ConfigError("layer_shapes leaves no layer with attention. Keep it in at least one.")


def _require_layer(index: int, shape: Mapping[str, int]) -> None:
    where = f"layer_shapes[{index}]"
    if set(shape) != set(SHAPE_KEYS) or any(type(n) is not int or n < 0 for n in shape.values()):
        raise ConfigError(f"{where} is {dict(shape)}; it must hold whole numbers from 0 for {', '.join(SHAPE_KEYS)}.")
    queries, groups = shape["query_heads"], shape["kv_heads"]
    if bool(queries) != bool(groups) or (groups and queries % groups):
        raise ConfigError(
            f"{where} has {queries} query heads for {groups} KV heads; every KV head needs the same number of query "
            "heads. Give a multiple, or 0 for both to remove the attention."
        )


def pruned_config(base: Mapping[str, Any], shapes: Sequence[LayerShape], architecture: str) -> PrunedConfig:
    """The configuration of `architecture` with configuration `base` after pruning to `shapes`.

    `base` is the content of its `config.json`, defaults filled in or not. Layers that are not present are left out and
    the rest renumbered; a present layer without heads lost its attention. Raises UnsupportedModel for another family or
    a sliding window, ConfigError for shapes that contradict each other.
    """
    if architecture not in MODEL_TYPES:
        raise UnsupportedModel(f"{architecture} cannot have per-layer shapes. Supported are {', '.join(MODEL_TYPES)}.")
    stock = AutoConfig.for_model(**{**base, "model_type": MODEL_TYPES[architecture]})
    _require_full_attention(stock)
    present = [{key: getattr(shape, key) for key in SHAPE_KEYS} for shape in shapes if shape.present]
    return PrunedConfig(
        **{name: getattr(stock, name) for name in CARRIED_FIELDS},
        **_switches(stock, architecture),
        num_hidden_layers=len(present),
        layer_shapes=present,
        head_dim=head_width(stock),
        architectures=[ARCHITECTURE],
    )


def head_width(config: Any) -> int:
    """Elements per attention head; some classes leave it to be computed."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def _require_full_attention(stock: Any) -> None:
    window = getattr(stock, "sliding_window", None)
    if window is not None and getattr(stock, "use_sliding_window", True):
        raise UnsupportedModel(
            f"The model attends to a sliding window of {window} tokens, which per-layer shapes cannot express. "
            "Set sliding_window to null if no context is longer, or choose another model."
        )


def _switches(stock: Any, architecture: str) -> dict[str, bool]:
    if architecture == "Qwen2ForCausalLM":
        return {"qkv_bias": True}
    bias = bool(getattr(stock, "attention_bias", False))
    return {
        "qkv_bias": bias,
        "attention_out_bias": bool(getattr(stock, "attention_out_bias", bias)),
        "mlp_bias": bool(getattr(stock, "mlp_bias", False)),
        "qk_norm": architecture == "Qwen3ForCausalLM",
    }
