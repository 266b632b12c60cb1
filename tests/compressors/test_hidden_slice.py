"""Hidden slicing keeps the function where the states leave room, loads as a stock model, and forgets no matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import FAMILIES, build_model, logits_of, random_text, save_checkpoint, save_tokenizer
from transformers import AutoModelForCausalLM

from artifacts.errors import ConfigError
from artifacts.variant import VariantManifest, load_variant
from compressors.methods.hidden_slice import HiddenSliceConfig, find_basis
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.request import CompressionRequest
from compressors.slicing import HiddenCut
from compressors.source import read_config
from compressors.verify import verify_variant

WIDTH, INNER = 64, 40


def made(model: Path, text: Path, ratio: float = 0.375, **changes: Any) -> VariantManifest:
    """Without repair unless asked for; a ratio of 0.375 leaves 40 of 64 channels."""
    request = CompressionRequest(
        model=str(model),
        out=model.parent / "variant",
        method="hidden_slice",
        ratio=ratio,
        calibration=str(text),
        calibration_tokens=1024,
        window_tokens=16,
        multiple_of=1,
        compensate=False,
    )
    return compress(replace(request, **changes), verify=verify_variant)


def reload(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def confine(model: Any) -> None:
    """Projects everything that writes into the residual stream onto a random subspace of INNER dimensions."""
    directions, _ = torch.linalg.qr(torch.randn(WIDTH, INNER, generator=torch.Generator().manual_seed(3)))
    project = directions @ directions.T
    model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ project)
    for layer in model.model.layers:
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.copy_(project @ writer.weight)
            if writer.bias is not None:
                writer.bias.copy_(project @ writer.bias)


def save_confined(folder: Path, family: str) -> Any:
    model = build_model(family)
    confine(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    path = tmp_path / "long.txt"
    path.write_text(random_text(80, 40))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_confined_stream_survives_the_cut(family: str, tmp_path: Path, long_text: Path) -> None:
    """40 of 64 channels carry everything: same logits from the narrow model, in unpatched Transformers."""
    dense = save_confined(tmp_path / "dense", family)
    manifest = made(tmp_path / "dense", long_text)
    variant = reload(tmp_path / "variant")
    wanted, given = logits_of(dense), logits_of(variant)
    assert variant.config.hidden_size == INNER == manifest.hidden_size
    assert float((given - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    norms = [p for name, p in variant.named_parameters() if name.endswith(("layernorm.weight", "model.norm.weight"))]
    assert len(norms) == 7
    assert all(torch.allclose(norm, torch.full((INNER,), math.sqrt(WIDTH / INNER))) for norm in norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_turning_alone_changes_nothing(family: str) -> None:
    """All 64 directions: the rotated model is the model."""
    from compressors.arch import LayerView
    from compressors.slicing import slice_layer

    model = build_model(family)
    wanted = logits_of(model)
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4)))
    cut = HiddenCut(rotation, torch.float32)
    head = cut.read(model.lm_head.weight.clone(), model.model.norm.weight)
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    embedding = model.model.embed_tokens.weight
    model.model.embed_tokens.weight = torch.nn.Parameter(embedding @ rotation, requires_grad=False)
    model.model.norm.weight.fill_(1.0)
    for layer in model.model.layers:
        slice_layer(LayerView(layer), cut)
    assert cut.norm_weight == 1.0
    assert float((logits_of(model) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
