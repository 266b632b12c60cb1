"""Footprint formulas against numbers worked out by hand and against the parameters themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import FAMILIES, build_model, save_checkpoint

from artifacts.errors import CheckpointError
from artifacts.variant import Footprint, Ratios
from compressors.footprint import footprint_of_folder, footprint_of_tensors
from compressors.headers import TensorHeader, read_headers, weight_files
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.source import is_tied, read_config
from compressors.verify import verify_variant


def test_formulas_by_hand() -> None:
    """One block: hidden 4, two query heads and one KV head of width 3, FFN 5; vocabulary 7; bfloat16."""
    shapes = {
        "model.embed_tokens.weight": (7, 4),
        "model.layers.0.input_layernorm.weight": (4,),
        "model.layers.0.self_attn.q_proj.weight": (6, 4),
        "model.layers.0.self_attn.q_proj.bias": (6,),
        "model.layers.0.self_attn.k_proj.weight": (3, 4),
        "model.layers.0.self_attn.v_proj.weight": (3, 4),
        "model.layers.0.self_attn.o_proj.weight": (4, 6),
        "model.layers.0.mlp.down_proj.weight": (4, 5),
        "model.norm.weight": (4,),
        "lm_head.weight": (7, 4),
    }
    matrices = 24 + 12 + 12 + 24 + 20
    footprint = footprint_of_tensors({n: TensorHeader("BF16", s) for n, s in shapes.items()}, tied=False)
    assert footprint == Footprint(
        params_total=matrices + 10 + 28 + 4 + 28,
        params_blocks=matrices + 10,
        weights_bytes=2 * (matrices + 70),
        kv_bytes_per_token=2 * 1 * 3 * 2,
        flops_per_token=2 * (matrices + 28),
    )


def test_stories260k(stories: Callable[[str], Path]) -> None:
    """226,560 matrix weights in its blocks (the published count), ten norms of 64, tied vocabulary of 512."""
    footprint = footprint_of_folder(stories("models/stories260K"), tied=True)
    assert footprint.params_blocks == 226_560 + 10 * 64
    assert footprint.params_total == footprint.params_blocks + 512 * 64 + 64
    assert footprint.weights_bytes == 4 * footprint.params_total
    assert footprint.kv_bytes_per_token == 2 * 5 * 4 * 8 * 4
    assert footprint.flops_per_token == 2 * (226_560 + 512 * 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_totals_are_the_parameters(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / family, family)
    model = build_model(family)
    footprint = footprint_of_folder(folder, tied=is_tied(read_config(folder)))
    assert footprint.params_total == sum(p.numel() for p in model.parameters())
    assert footprint.params_blocks == sum(p.numel() for p in model.model.layers.parameters())


def test_a_tied_head_stored_twice_counts_once() -> None:
    embedding = {"model.embed_tokens.weight": TensorHeader("F32", (7, 4))}
    both = {**embedding, "lm_head.weight": TensorHeader("F32", (7, 4))}
    assert footprint_of_tensors(both, tied=True) == footprint_of_tensors(embedding, tied=True)
    assert footprint_of_tensors(both, tied=False).params_total == 2 * 28


def test_ratios_are_removed_shares() -> None:
    base = Footprint(params_total=100, params_blocks=80, weights_bytes=400, kv_bytes_per_token=40, flops_per_token=160)
    half = base.model_copy(update={"params_blocks": 60, "params_total": 80, "kv_bytes_per_token": 30})
    ratios = Ratios.between(0.3, base, half)
    assert ratios.nominal == 0.3 and ratios.flops_per_token == 0
    assert ratios.params_total == pytest.approx(0.2) and ratios.params_blocks == pytest.approx(0.25)
    assert ratios.kv_bytes_per_token == pytest.approx(0.25)


def test_several_shards_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is written, its total is right, and every tensor is found through it."""
    monkeypatch.setattr("compressors.export._MAX_SHARD_BYTES", 20_000)
    save_checkpoint(tmp_path / "dense")
    request = CompressionRequest(model=str(tmp_path / "dense"), out=tmp_path / "variant", method="magnitude", ratio=0)
    compress(request, verify=verify_variant)
    assert len(weight_files(tmp_path / "variant")) > 3
    before, after = read_headers(tmp_path / "dense"), read_headers(tmp_path / "variant")
    assert before == after
    assert read_total_size(tmp_path / "variant") == sum(header.size_bytes for header in after.values())


def read_total_size(folder: Path) -> int:
    return int(json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"])


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-2.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"lacks the weight file part-2\.safetensors"):
        weight_files(tmp_path)
