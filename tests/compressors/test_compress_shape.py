"""A checkpoint drawn block by block and pruned: a GPU host's command, on a shape that any machine has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from benchmarks import compress_shape
from benchmarks.random_checkpoint import TEXT_NAME, write_checkpoint
from compressors.shards import stored_tensors
from compressors.source import open_source

STUDY = """
title = "one shape"
models = [{ name = "small", config = CONFIG }]
methods = [{ name = "ffn", method = "random", ratios = [0.5] }]
speeds = [{ mode = "paper" }]
"""
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def test_a_checkpoint_is_drawn_a_file_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.random_checkpoint._PIECE_ELEMENTS", 1000)
    write_checkpoint(tmp_path, CONFIG, 300)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        *(f"model-{block}.safetensors" for block in ("0", "1", "2", "ends"))
    }
    source = open_source(str(tmp_path))
    assert source.footprint.params_total == sum(t.header.elements for t in stored_tensors(tmp_path).values())
    with safe_open(tmp_path / "model-1.safetensors", "pt") as blocks:
        weight, norm = (
            blocks.get_tensor(f"model.layers.1.{n}") for n in ("mlp.up_proj.weight", "input_layernorm.weight")
        )
    assert weight.dtype == torch.bfloat16 and weight.shape == (256, 64)
    assert float(weight.float().std()) == pytest.approx(0.02, rel=0.05) and abs(float(weight.float().mean())) < 1e-3
    assert bool((norm == 1).all()) and len(weight.unique(dim=0)) == 256, "no piece is drawn twice"
    assert len((tmp_path / TEXT_NAME).read_text().split()) == 300


def test_the_command_measures_and_draws_its_page(tmp_path: Path) -> None:
    study, out = tmp_path / "study.toml", tmp_path / "record"
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in CONFIG.items())
    study.write_text(STUDY.replace("CONFIG", "{ " + inline + " }"))
    asked = ["--study", str(study), "--model", "small", "--tokens", "512", "--folder", str(tmp_path), "--out", str(out)]
    compress_shape.main(asked)
    (row,) = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert row["params"] - row["left_params"] == 3 * 3 * 64 * 128
    assert row["block_bytes"] == pytest.approx(4 * (64 * 16 * 2 * 6 + 3 * 64 * 256), rel=0.01)
    assert row["gpu_peak_allocated_bytes"] is None and row["wall_s"] > 0 and row["buffers_bytes"] > 0
    page = out.with_suffix(".md").read_text()
    assert page == compress_shape.render(json.loads(out.with_suffix(".json").read_text()))
    assert "| small |" in page and "0.5 of ffn" in page
    with pytest.raises(SystemExit, match="is there already"):
        compress_shape.main(asked)


def test_a_head_width_that_the_class_leaves_out_is_computed(tmp_path: Path) -> None:
    """As published Qwen2.5 checkpoints leave it out."""
    write_checkpoint(tmp_path, CONFIG, 300)
    assert "head_dim" not in json.loads((tmp_path / "config.json").read_text())
    assert open_source(str(tmp_path)).config["head_dim"] == 16
