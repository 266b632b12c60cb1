"""Layers that differ, and layers that lack a half, leave as one verified checkpoint that loads like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_model, logits_of, save_checkpoint
from transformers import AutoModelForCausalLM

from artifacts.variant import LayerShape, VariantManifest
from compressors.divergence import DivergenceBench
from compressors.pipeline import compress
from compressors.plan import Allocation, LayerBudget
from compressors.relabel import is_uniform
from compressors.request import CompressionRequest
from compressors.resident import ResidentModel
from compressors.source import read_config
from compressors.verify import verify_variant

UNEVEN: Allocation = (
    LayerBudget(kv_groups=0, ffn_channels=48),
    LayerBudget(kv_groups=3, ffn_channels=20),
    LayerBudget(kv_groups=4, ffn_channels=0),
)


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, the layers get these widths."""
    monkeypatch.setattr("compressors.making.Maker._allocation", lambda *_: UNEVEN)


def made(model: Path, name: str, **changes: Any) -> VariantManifest:
    asked = {"method": "magnitude", "ratio": 0.25, "units": ("ffn", "kv"), **changes}
    request = CompressionRequest(model=str(model), out=model.parent / name, **asked)  # type: ignore[arg-type]
    return compress(request, verify=verify_variant)


@pytest.mark.parametrize("family", ["llama", "llama-biased", "mistral", "qwen2", "qwen3"])
def test_uneven_layers_reload_with_the_logits_they_had(family: str, tmp_path: Path, uneven: None) -> None:
    """`verify_variant` compares the logits; what the files say of themselves is looked at here."""
    manifest = made(save_checkpoint(tmp_path / family, family), "variant")
    config = read_config(tmp_path / "variant")
    assert config["architectures"] == ["PrunebenchForCausalLM"] == [manifest.architecture]
    assert manifest.expressibility == "per-layer"
    assert manifest.layers == (
        LayerShape(index=0, query_heads=0, kv_heads=0, ffn_width=48),
        LayerShape(index=1, query_heads=6, kv_heads=3, ffn_width=20),
        LayerShape(index=2, query_heads=8, kv_heads=4, ffn_width=0),
    )
    assert manifest.footprint.kv_bytes_per_token == 2 * (3 + 4) * 32 * 4
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "variant", dtype=torch.float32)
    assert manifest.footprint.params_total == sum(parameter.numel() for parameter in model.parameters())
    assert torch.isfinite(logits_of(model)).all()


def test_a_removed_half_is_the_candidate_that_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search saw as KL divergence is what the exported checkpoint has."""
    whole = LayerBudget(kv_groups=4, ffn_channels=48)
    chosen: Allocation = (whole, LayerBudget(kv_groups=0, ffn_channels=48), whole)
    monkeypatch.setattr("compressors.making.Maker._allocation", lambda *_: chosen)
    dense = build_model("qwen3")
    made(save_checkpoint(tmp_path / "dense", "qwen3"), "variant")
    ids = torch.randint(96, (2, 16), generator=torch.Generator().manual_seed(0))
    (judged,) = DivergenceBench(ResidentModel(dense), ids).divergences([chosen])
    variant = AutoModelForCausalLM.from_pretrained(tmp_path / "variant", dtype=torch.float32)
    wanted, given = logits_of(dense).log_softmax(-1), logits_of(variant).log_softmax(-1)
    measured = float((wanted.exp() * (wanted - given)).sum(-1).double().mean())
    assert measured == pytest.approx(judged, rel=1e-4) and measured > 1e-3


def test_an_uneven_variant_can_be_pruned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths shrink by the same share of each layer's own."""
    with monkeypatch.context() as patch:
        patch.setattr("compressors.making.Maker._allocation", lambda *_: UNEVEN)
        made(save_checkpoint(tmp_path / "dense"), "first")
    second = made(tmp_path / "first", "second", units=("ffn",), ratio=0.5)
    assert [layer.ffn_width for layer in second.layers] == [24, 10, 0]
    assert [layer.kv_heads for layer in second.layers] == [0, 3, 4]
    assert second.base.name == "first"


@pytest.mark.parametrize(
    ("layers", "expected", "sentence"),
    [
        ([(8, 4, 48), (8, 4, 48)], True, "all alike"),
        ([(8, 4, 48), (8, 4, 47)], False, "one FFN is narrower"),
        ([(8, 4, 48), (6, 3, 48)], False, "one layer has fewer groups"),
        ([(8, 4, 0), (8, 4, 0)], False, "no stock class lacks its FFN"),
        ([(0, 0, 48), (0, 0, 48)], False, "nor its attention"),
    ],
)
def test_what_stock_classes_can_express(layers: list[tuple[int, int, int]], expected: bool, sentence: str) -> None:
    shapes = [LayerShape(index=i, query_heads=q, kv_heads=g, ffn_width=f) for i, (q, g, f) in enumerate(layers)]
    dropped = LayerShape(index=9, present=False, query_heads=0, kv_heads=0, ffn_width=0)
    assert is_uniform([*shapes, dropped]) is expected, sentence
