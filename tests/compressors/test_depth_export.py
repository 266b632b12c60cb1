"""What depth methods choose leaves as a checkpoint that computes and generates what the dense model would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import silence
from tiny_models import VOCABULARY, build_model, logits_of, save_tokenizer
from transformers import AutoModelForCausalLM

from artifacts.errors import ConfigError
from artifacts.variant import Unit, VariantManifest
from compressors.chain import compress_chain
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant

METHODS = ("block_influence", "greedy_kl", "evolutionary_depth")


def request(model: Path, text: Path, method: str, ratio: float, *units: Unit) -> CompressionRequest:
    return CompressionRequest(
        model=str(model),
        out=model.parent / "variant",
        method=method,
        ratio=ratio,
        units=units or None,
        calibration=str(text),
        calibration_tokens=128,
        window_tokens=16,
    )


def made(asked: CompressionRequest) -> VariantManifest:
    return compress(asked, verify=verify_variant)


def silent_model(folder: Path, family: str, *silent: tuple[int, str]) -> Any:
    """Five layers, of which some halves write nothing, saved to the folder."""
    model = build_model(family, num_hidden_layers=5)
    for index, half in silent:
        silence(model, index, half)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def generated(model: Any) -> list[list[int]]:
    """Greedy continuations with the key and value cache."""
    ids = torch.randint(VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ended = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False
        )
    tokens: list[list[int]] = ended.tolist()
    return tokens


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_silent_layer_goes_and_nothing_changes(method: str, family: str, tmp_path: Path, text_file: Path) -> None:
    """A layer that kept its old number would look for its cache in the wrong place."""
    dense = silent_model(tmp_path / "dense", family, (1, "kv"), (1, "ffn"))
    manifest = made(request(tmp_path / "dense", text_file, method, 0.2))
    assert [layer.present for layer in manifest.layers] == [True, False, True, True, True]
    assert manifest.expressibility == "stock"
    variant = AutoModelForCausalLM.from_pretrained(tmp_path / "variant", dtype=torch.float32)
    assert torch.allclose(logits_of(variant), logits_of(dense), atol=1e-5)
    assert generated(variant) == generated(dense)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("unit", "half"), [("attention_sublayers", "kv"), ("ffn_sublayers", "ffn")])
def test_silent_halves_go_and_nothing_changes(
    method: str, unit: Unit, half: str, tmp_path: Path, text_file: Path
) -> None:
    dense = silent_model(tmp_path / "dense", "qwen3", (2, half), (3, half))
    manifest = made(request(tmp_path / "dense", text_file, method, 0.4, unit))
    for layer in manifest.layers:
        gone = layer.index in (2, 3)
        assert layer.present and (layer.kv_heads, layer.ffn_width) == (
            (0 if gone and half == "kv" else 4),
            (0 if gone and half == "ffn" else 48),
        )
    assert manifest.expressibility == "per-layer" and manifest.method.units == (unit,)
    assert manifest.ratios.kv_bytes_per_token == pytest.approx(0.4 if half == "kv" else 0.0)
    variant = AutoModelForCausalLM.from_pretrained(tmp_path / "variant", dtype=torch.float32)
    assert torch.allclose(logits_of(variant), logits_of(dense), atol=1e-5)
    assert generated(variant) == generated(dense)


@pytest.mark.parametrize(
    ("units", "ratio", "fragment"),
    [
        (("layers", "ffn_sublayers"), 0.4, "Layers cannot go together with halves of layers"),
        (("attention_sublayers",), 0.9, "would leave no attention sublayer of 3"),
        (("ffn_sublayers",), 0.1, "rounds to no removed unit (3 FFN sublayers"),
        (("hidden",), 0.3, "cannot prune hidden"),
    ],
)
def test_refused(units: tuple[Unit, ...], ratio: float, fragment: str, model_folder: Path, text_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        made(request(model_folder, text_file, "greedy_kl", ratio, *units))
    assert fragment in str(caught.value) and not (model_folder.parent / "variant").exists()


def test_ffn_width_then_attention_sublayers(tmp_path: Path, text_file: Path) -> None:
    """The two-stage recipe: the second step measures on the narrower model and leaves its widths alone."""
    silent_model(tmp_path / "dense", "llama", (3, "kv"))
    width = request(tmp_path / "dense", text_file, "wanda_sp", 0.25, "ffn")
    depth = replace(width, method="greedy_kl", ratio=0.2, units=("attention_sublayers",))
    manifest = compress_chain([width, depth], verify=verify_variant)
    assert [layer.kv_heads for layer in manifest.layers] == [4, 4, 4, 0, 4]
    assert {layer.ffn_width for layer in manifest.layers} == {36}
    assert manifest.ratios.kv_bytes_per_token == pytest.approx(0.2)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "variant").config.num_hidden_layers == 5


def test_halves_then_layers_then_width(tmp_path: Path, text_file: Path) -> None:
    """From a base whose layers already differ: the share is of what is still there, layers keep the first numbers."""
    silent_model(tmp_path / "dense", "mistral", (1, "kv"), (2, "kv"), (3, "kv"), (3, "ffn"))
    halves = request(tmp_path / "dense", text_file, "greedy_kl", 0.4, "attention_sublayers")
    silent = compress_chain([halves], verify=verify_variant)
    assert sum(layer.kv_heads == 0 for layer in silent.layers) == 2
    steps = [replace(halves, out=tmp_path / "b"), replace(halves, ratio=0.34), replace(halves, ratio=0.2, units=None)]
    width = replace(halves, method="magnitude", ratio=0.25, units=("ffn",))
    manifest = compress_chain([*steps, width], verify=verify_variant)
    assert [layer.index for layer in manifest.layers] == [0, 1, 2, 3, 4]
    assert [layer.kv_heads for layer in manifest.layers] == [4, 0, 0, 0, 4], "a third of three is one more"
    assert [layer.ffn_width for layer in manifest.layers] == [36, 36, 36, 0, 36]
    assert not manifest.layers[3].present and len(manifest.earlier) == 3
