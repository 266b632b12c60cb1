"""Verification must notice every way in which a variant can differ from what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from artifacts.errors import CheckpointError
from artifacts.files import sha256_of_file
from artifacts.variant import load_variant
from compressors.export import PROBE_NAME, probe_ids
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import expected_shapes, main, verify_in_fresh_process, verify_variant


@pytest.fixture
def unverified(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of a variant as it is before verification, probe included."""
    kept = tmp_path / "kept"

    def keep(folder: Path) -> None:
        kept.mkdir()
        for path in folder.iterdir():
            (kept / path.name).write_bytes(path.read_bytes())

    request = CompressionRequest(model=str(model_folder), out=tmp_path / "out", method="magnitude", ratio=0.25)
    compress(request, verify=keep)
    assert not (tmp_path / "out" / PROBE_NAME).exists()
    return kept


def rewrite_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    resign(folder)


def rewrite_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    resign(folder)


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    load_variant(folder).model_copy(update=changes).save(folder / "variant.json")


def resign(folder: Path) -> None:
    """Corrects the checksums, so that a later check has to notice."""
    manifest = load_variant(folder)
    rewrite_manifest(folder, checksums={name: sha256_of_file(folder / name) for name in manifest.checksums})


def test_a_good_variant_passes_with_and_without_its_probe(unverified: Path) -> None:
    verify_variant(unverified)
    (unverified / PROBE_NAME).unlink()
    verify_variant(unverified)
    assert main([str(unverified)]) == 0


def _nudge(folder: Path) -> None:
    rewrite_weights(folder, lambda t: t["model.layers.0.mlp.down_proj.weight"].mul_(1.01))


def _infinite(folder: Path) -> None:
    rewrite_weights(folder, lambda t: t["model.norm.weight"].fill_(float("inf")))


def _overflow(folder: Path) -> None:
    (folder / PROBE_NAME).unlink()
    rewrite_weights(folder, lambda t: t["model.norm.weight"].fill_(3e38))


def _wider(folder: Path) -> None:
    rewrite_config(folder, intermediate_size=40)


def _fewer_layers(folder: Path) -> None:
    rewrite_config(folder, num_hidden_layers=2)


def _other_rope(folder: Path) -> None:
    rewrite_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 100.0})


def _other_footprint(folder: Path) -> None:
    manifest = load_variant(folder)
    rewrite_manifest(folder, footprint=manifest.footprint.model_copy(update={"flops_per_token": 1}))


def _other_ratios(folder: Path) -> None:
    manifest = load_variant(folder)
    rewrite_manifest(folder, ratios=manifest.ratios.model_copy(update={"params_total": 0.5}))


def _unsigned(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("tamper", "fragment"),
    [
        (_nudge, "the reloaded logits differ by"),
        (_other_rope, "the reloaded logits differ by"),
        (_infinite, "model.norm.weight has values that are not finite"),
        (_overflow, "logits that are not finite"),
        (_wider, "mlp.gate_proj.weight has shape (36, 64), config.json implies (40, 64)"),
        (_fewer_layers, "holds more layers than the 2 of config.json"),
        (_other_footprint, "variant.json says"),
        (_other_ratios, "variant.json says"),
        (_unsigned, "generation_config.json is damaged"),
    ],
)
def test_every_difference_is_noticed(unverified: Path, tamper: Callable[[Path], None], fragment: str) -> None:
    tamper(unverified)
    with pytest.raises(CheckpointError) as caught:
        verify_variant(unverified)
    assert fragment in str(caught.value)


def test_the_command_line_says_why(unverified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _other_ratios(unverified)
    assert main([str(unverified)]) == 2
    assert "variant.json says" in capsys.readouterr().err


def test_the_fresh_process_hands_its_sentence_back(unverified: Path) -> None:
    (unverified / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"did not pass verification: .*config\.json is missing"):
        verify_in_fresh_process(unverified)


def test_probe_ids_spread_and_fit() -> None:
    ids = probe_ids(vocabulary=512, context_tokens=512)
    assert ids.shape == (1, 24) and len(set(ids[0].tolist())) == 24 and int(ids.max()) < 512
    assert probe_ids(vocabulary=7, context_tokens=5).shape == (1, 5)
    assert int(probe_ids(vocabulary=7, context_tokens=5).max()) < 7


def test_expected_shapes_by_hand() -> None:
    config = {
        "hidden_size": 64,
        "intermediate_size": 129,
        "num_hidden_layers": 1,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "vocab_size": 512,
    }
    shapes = expected_shapes(config)
    assert len(shapes) == 8
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (64, 192)
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (96, 64)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (64, 129)
