"""The configuration: what it takes over from every base family, what it derives, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError, PrunebenchError, UnsupportedModel
from artifacts.variant import LayerShape
from modeling.pruned_config import ARCHITECTURE, MODEL_TYPE, PrunedConfig, pruned_config

LAYERS = ({"query_heads": 8, "kv_heads": 4, "ffn_width": 48}, {"query_heads": 2, "kv_heads": 1, "ffn_width": 64})
BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
SHAPES = (
    LayerShape(index=0, query_heads=6, kv_heads=3, ffn_width=48),
    LayerShape(index=1, present=False, query_heads=0, kv_heads=0, ffn_width=0),
    LayerShape(index=2, query_heads=0, kv_heads=0, ffn_width=64),
)


def config(*layers: dict[str, Any], **changes: Any) -> PrunedConfig:
    fields = {"num_hidden_layers": len(layers), "layer_shapes": list(layers), "head_dim": 32, "hidden_size": 64}
    return PrunedConfig(**{**fields, **changes})


def layer(query_heads: Any, kv_heads: Any, ffn_width: Any) -> dict[str, Any]:
    return {"query_heads": query_heads, "kv_heads": kv_heads, "ffn_width": ffn_width}


@pytest.mark.parametrize(
    ("architecture", "given", "on"),
    [
        ("LlamaForCausalLM", {}, set()),
        ("LlamaForCausalLM", {"attention_bias": True}, {"qkv_bias", "attention_out_bias"}),
        ("LlamaForCausalLM", {"mlp_bias": True}, {"mlp_bias"}),
        ("MistralForCausalLM", {"sliding_window": None}, set()),
        ("Qwen2ForCausalLM", {}, {"qkv_bias"}),
        ("Qwen2ForCausalLM", {"use_sliding_window": False, "sliding_window": 4096}, {"qkv_bias"}),
        ("Qwen3ForCausalLM", {}, {"qk_norm"}),
        ("SeedOssForCausalLM", {}, {"qkv_bias"}),
        ("SeedOssForCausalLM", {"attention_bias": False, "attention_out_bias": True}, {"attention_out_bias"}),
        ("SeedOssForCausalLM", {"mlp_bias": True}, {"qkv_bias", "mlp_bias"}),
    ],
)
def test_switches_of_every_base_family(architecture: str, given: dict[str, Any], on: set[str]) -> None:
    pruned = pruned_config({**BASE, **given}, SHAPES, architecture)
    switches = ("qkv_bias", "attention_out_bias", "mlp_bias", "qk_norm")
    assert {name for name in switches if getattr(pruned, name)} == on
    assert pruned.architectures == [ARCHITECTURE] and pruned.model_type == MODEL_TYPE


def test_absent_layers_are_left_out_and_flat_fields_hold_the_largest() -> None:
    pruned = pruned_config(BASE, SHAPES, "LlamaForCausalLM")
    assert pruned.layer_shapes == [layer(6, 3, 48), layer(0, 0, 64)]
    assert pruned.num_hidden_layers == 2
    assert (pruned.num_attention_heads, pruned.num_key_value_heads, pruned.intermediate_size) == (6, 3, 64)


def test_what_the_computation_depends_on_is_taken_over() -> None:
    carried = {
        "hidden_act": "silu",
        "rms_norm_eps": 3e-5,
        "max_position_embeddings": 777,
        "tie_word_embeddings": True,
        "bos_token_id": 7,
        "eos_token_id": [8, 9],
        "pad_token_id": 10,
        "attention_dropout": 0.25,
        "initializer_range": 0.5,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1234.0, "factor": 2.0},
    }
    pruned = pruned_config({**BASE, **carried}, SHAPES, "Qwen3ForCausalLM")
    assert {name: getattr(pruned, name) for name in carried} == carried
    assert (pruned.vocab_size, pruned.hidden_size, pruned.head_dim) == (96, 64, 32)


def test_old_names_of_the_rotary_embedding_are_understood() -> None:
    scaling = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = {"rope_theta": 500000.0, "rope_scaling": {**scaling, "original_max_position_embeddings": 8192}}
    found = pruned_config({**BASE, **old}, SHAPES, "LlamaForCausalLM").rope_parameters
    assert found["rope_theta"] == 500000.0 and found["rope_type"] == "llama3" and found["factor"] == 8.0


@pytest.mark.parametrize(
    ("architecture", "head_dim", "expected"),
    [("LlamaForCausalLM", None, 8), ("Qwen2ForCausalLM", None, 8), ("Qwen3ForCausalLM", 16, 16)],
)
def test_head_width_is_the_base_models_own(architecture: str, head_dim: int | None, expected: int) -> None:
    """Without `head_dim` it is hidden size over the heads before pruning: 64 / 8, not 64 / 6."""
    base = {name: value for name, value in {**BASE, "head_dim": head_dim}.items() if value is not None}
    assert pruned_config(base, SHAPES, architecture).head_dim == expected


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    pruned = pruned_config({**BASE, "attention_bias": True}, SHAPES, "LlamaForCausalLM")
    pruned.save_pretrained(tmp_path)
    assert PrunedConfig.from_pretrained(tmp_path).to_dict() == pruned.to_dict()
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["layer_shapes"] == pruned.layer_shapes
    assert stored["num_attention_heads"] == 6 and stored["qkv_bias"] is True and stored["sliding_window"] is None


def test_a_layers_copy_is_flat_and_the_original_untouched() -> None:
    both = config(*LAYERS)
    flat = both.for_layer(1)
    assert (flat.num_attention_heads, flat.num_key_value_heads, flat.intermediate_size) == (2, 1, 64)
    assert (both.num_attention_heads, both.num_key_value_heads, both.intermediate_size) == (8, 4, 64)
    assert flat.rope_parameters == both.rope_parameters and flat.head_dim == 32


def test_without_per_layer_shapes_all_layers_are_flat() -> None:
    plain = PrunedConfig(num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, intermediate_size=10)
    assert plain.layer_shapes == [layer(6, 2, 10)] * 2


@pytest.mark.parametrize(
    ("layers", "changes", "message"),
    [
        ([layer(8, 4, 48)], {"num_hidden_layers": 2}, "has 1 entries, num_hidden_layers is 2"),
        ([layer(8, 4, 48), layer(7, 2, 48)], {}, r"layer_shapes\[1\] has 7 query heads for 2 KV heads"),
        ([layer(8, 4, 48), layer(4, 0, 48)], {}, r"layer_shapes\[1\] has 4 query heads for 0 KV heads"),
        ([layer(0, 4, 48)], {}, r"layer_shapes\[0\] has 0 query heads for 4 KV heads"),
        ([layer(2, 4, 48)], {}, r"layer_shapes\[0\] has 2 query heads for 4 KV heads"),
        ([layer(8, 4, -1)], {}, "whole numbers from 0"),
        ([layer(8, 4, 1.5)], {}, "whole numbers from 0"),
        ([layer(8, True, 48)], {}, "whole numbers from 0"),
        ([{"query_heads": 8, "kv_heads": 4}], {}, "whole numbers from 0 for query_heads, kv_heads, ffn_width"),
        ([{**layer(8, 4, 48), "heads": 3}], {}, "whole numbers from 0"),
        ([layer(0, 0, 48), layer(0, 0, 8)], {}, "leaves no layer with attention"),
        ([layer(8, 4, 48)], {"head_dim": None}, "head_dim is missing"),
        ([layer(8, 4, 48)], {"sliding_window": 512}, "sliding_window is 512"),
        ([layer(8, 4, 48)], {"qk_norm": True, "qkv_bias": True}, "qk_norm is set together with an attention bias"),
        ([layer(8, 4, 48)], {"qk_norm": True, "attention_out_bias": True}, "qk_norm is set together"),
    ],
)
def test_contradictions_are_refused(layers: list[dict[str, Any]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*layers, **changes)


@pytest.mark.parametrize(
    ("architecture", "given", "error", "message"),
    [
        ("GPT2LMHeadModel", {}, UnsupportedModel, "GPT2LMHeadModel cannot have per-layer shapes"),
        ("MistralForCausalLM", {"sliding_window": 4096}, UnsupportedModel, "sliding window of 4096 tokens"),
        (
            "Qwen2ForCausalLM",
            {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
            UnsupportedModel,
            "sliding window of 32 tokens",
        ),
        ("Qwen3ForCausalLM", {"attention_bias": True}, ConfigError, "qk_norm is set together"),
    ],
)
def test_bases_that_cannot_be_expressed_are_refused(
    architecture: str, given: dict[str, Any], error: type[PrunebenchError], message: str
) -> None:
    with pytest.raises(error, match=message):
        pruned_config({**BASE, **given}, SHAPES, architecture)
