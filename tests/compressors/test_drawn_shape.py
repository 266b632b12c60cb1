"""Shapes without weights: parameters as published, what each kind of pruning leaves, and files that load."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from artifacts.errors import ConfigError, UnsupportedModel
from compressors.drawn_shape import dense_parameters, write_drawn_shape
from compressors.footprint import footprint_of_folder
from compressors.source import load_tokenizer, read_config
from modeling.registration import register_with_transformers

STUDY = Path(__file__).parents[2] / "studies" / "h200-shapes.toml"
SHAPE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
# As the models' own pages give them, in billions.
PUBLISHED = {
    **{"qwen2.5-14b": 14.77, "qwen2.5-7b": 7.62, "qwen2.5-3b": 3.09, "qwen2.5-1.5b": 1.54, "qwen2.5-0.5b": 0.494},
    **{"llama-3-8b": 8.03, "llama-3.2-3b": 3.21, "llama-3.2-1b": 1.24},
}


def test_published_shapes_have_their_published_size() -> None:
    models = tomllib.loads(STUDY.read_text())["models"]
    sizes = {model["name"]: dense_parameters(model["config"]) / 1e9 for model in models}
    assert sizes == pytest.approx(PUBLISHED, rel=0.004)


@pytest.mark.parametrize(
    ("asked", "layers", "kv_heads", "width", "removed"),
    [
        ({}, 4, 2, 256, 0),
        ({"ratio": 0.5}, 4, 2, 128, 4 * 3 * 64 * 128),
        ({"ratio": 0.5, "units": ("layers",)}, 2, 2, 256, 2 * (64 * 16 * 2 * 6 + 3 * 64 * 256)),
        ({"ratio": 0.5, "units": ("kv",)}, 4, 1, 256, 4 * 64 * 16 * 2 * 3),
    ],
)
def test_what_is_left(
    tmp_path: Path, asked: dict[str, Any], layers: int, kv_heads: int, width: int, removed: int
) -> None:
    drawn = write_drawn_shape(SHAPE, tmp_path / "out", **asked)
    config = read_config(tmp_path / "out")
    assert (config["num_hidden_layers"], config["num_key_value_heads"], config["intermediate_size"]) == (
        layers,
        kv_heads,
        width,
    )
    assert dense_parameters(SHAPE) - drawn.params_total == removed


def test_per_layer_widths_shrink_towards_the_end_and_add_up(tmp_path: Path) -> None:
    drawn = write_drawn_shape(SHAPE, tmp_path / "out", ratio=0.5, allocation="depth_increasing", multiple_of=1)
    widths = [layer["ffn_width"] for layer in read_config(tmp_path / "out")["layer_shapes"]]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    assert sum(widths) == pytest.approx(4 * 128, abs=2)
    assert dense_parameters(SHAPE) - drawn.params_total == 3 * 64 * (4 * 256 - sum(widths))


@pytest.mark.parametrize(
    "asked", [{}, {"ratio": 0.5, "units": ("kv",)}, {"ratio": 0.5, "allocation": "depth_increasing"}]
)
def test_transformers_builds_it_with_as_many_parameters(tmp_path: Path, asked: dict[str, Any]) -> None:
    drawn = write_drawn_shape(SHAPE, tmp_path / "out", **asked)
    register_with_transformers()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "out"))
    matrices = {p.data_ptr(): p.numel() for p in model.parameters() if p.ndim == 2}
    assert sum(matrices.values()) == drawn.params_total
    assert len(load_tokenizer(tmp_path / "out")) == SHAPE["vocab_size"]
    # Servers load it their own way, and begin with a request in words.
    for tokenizer in (load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")):
        assert tokenizer.decode(tokenizer("Hi you").input_ids) == "Hi you"


@pytest.mark.parametrize("asked", [{}, {"ratio": 0.5, "units": ("kv",)}, {"ratio": 0.5, "units": ("layers",)}])
@pytest.mark.parametrize("tied", [True, False])
def test_it_weighs_what_its_files_would(tmp_path: Path, asked: dict[str, Any], tied: bool) -> None:
    drawn = write_drawn_shape(SHAPE | {"tie_word_embeddings": tied}, tmp_path / "out", **asked)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "weights")
    stored = footprint_of_folder(tmp_path / "weights", tied=tied)
    for name in ("params_total", "params_blocks", "weights_bytes"):
        assert getattr(drawn, name) == pytest.approx(getattr(stored, name), rel=0.02), "norms and biases are left out"
    assert (drawn.kv_bytes_per_token, drawn.flops_per_token) == (stored.kv_bytes_per_token, stored.flops_per_token)


@pytest.mark.parametrize(
    ("change", "asked", "error", "complaint"),
    [
        ({"dtype": "int3"}, {}, UnsupportedModel, "int3 is no type of weights"),
        ({"architectures": ["GPT2LMHeadModel"]}, {}, UnsupportedModel, "GPT2LMHeadModel cannot be drawn"),
        ({}, {"ratio": 0.5, "allocation": "evolutionary"}, UnsupportedModel, "looks at weights"),
        ({}, {"ratio": 0.9, "units": ("kv",)}, ConfigError, "would leave no KV group"),
    ],
)
def test_what_cannot_be_drawn_leaves_nothing(
    tmp_path: Path, change: dict[str, Any], asked: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        write_drawn_shape(SHAPE | change, tmp_path / "out", **asked)
    assert list(tmp_path.iterdir()) == []
