"""Pruned tiny variants and small requests, shared by the recovery tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import build_model, random_windows, save_checkpoint

from artifacts.variant import LayerShape, VariantManifest
from compressors.arch import ModelView
from compressors.pipeline import CompressionRequest, compress
from compressors.recovery.patient import Patient, ShapedModel
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.surgery import keep_units
from compressors.verify import verify_variant


def pruned(model: Path, out: Path, **changes: Any) -> VariantManifest:
    """Half of the FFN channels gone, by default."""
    request = CompressionRequest(model=str(model), out=out, method="magnitude", ratio=0.5, units=("ffn",))
    return compress(replace(request, **changes), verify=verify_variant)


def make_variant(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """`folder/dense` and the variant of it that is returned."""
    model = save_checkpoint(folder / "dense", family, dtype)
    pruned(model, folder / "pruned", **changes)
    return folder / "pruned"


def request_for(variant: Path, text: Path, method: str = "full", **changes: Any) -> RecoveryRequest:
    """Six steps of two windows; the dense model lies beside the variant."""
    plain = RecoveryRequest(
        variant=variant,
        out=variant.parent / "recovered",
        method=method,
        text=text,
        teacher=variant.parent / "dense",
        tokens=192,
        batch_tokens=32,
        window_tokens=16,
        held_out_tokens=64,
    )
    return replace(plain, **changes)


def recovered(request: RecoveryRequest) -> VariantManifest:
    """Verified in this process: as strict, and faster than a new one."""
    return recover(request, verify=verify_variant)


def shapes_of(view: ModelView) -> tuple[LayerShape, ...]:
    return tuple(layer.shape(index) for index, layer in enumerate(view.layers))


def make_patient(family: str = "llama", kept_ffn: int | None = 24, seed: int = 0) -> Patient:
    """A dense model as teacher, and the same model with `kept_ffn` channels (None: all) of each layer as student."""
    teacher, student = (ModelView(build_model(family)) for _ in range(2))
    for layer in student.layers:
        if kept_ffn is not None:
            keep_units(layer.group("ffn"), tuple(range(kept_ffn)))
    return Patient(
        student=ShapedModel(student, shapes_of(student)),
        teacher=ShapedModel(teacher, shapes_of(teacher)),
        windows=random_windows(count=8, tokens=16),
        device=torch.device("cpu"),
        seed=seed,
    )


def everything() -> torch.Tensor:
    """The indices of all windows of `make_patient`."""
    return torch.arange(8)
