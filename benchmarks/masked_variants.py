"""What `masked_serving` serves: the dense model, two masked ones, and for each a structured one that loses as much.

A twin is found by its held-out loss: the share of the blocks' parameters that the best cheap way of this package may
remove (`obs` on FFN channels, refitted, its budget spread by `dynamic_programme`) is halved towards the mask's loss.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from artifacts.variant import VariantManifest, is_variant, load_variant
from benchmarks.equal_loss import mean_nats, nearest_try
from benchmarks.masked_serving_page import DENSE, TWINS
from benchmarks.stories import write_parts
from compressors.masks import Pattern
from compressors.pipeline import compress
from compressors.quality import Sums, add_window, evaluation_windows
from compressors.request import CompressionRequest
from compressors.source import load_model, load_tokenizer
from compressors.sparsity import sparsity_of_folder
from compressors.text import read_corpus
from compressors.verify import verify_variant
from modeling.python_corpus import load_corpus
from prunebench.demo_plan import MODEL_DIR

# By mask its pattern; `TWINS` names what is to lose as much.
MASKS: dict[str, str | None] = {"sparse-50": None, "sparse-2of4": "2:4"}
SHARE = 0.5
CALIBRATION_TOKENS, LENGTH_TOKENS, EVALUATED_TOKENS = 16_384, 512, 12_288
AIM_NATS, MOST_TRIES = 0.004, 7
# Between which shares of the blocks' parameters the twins are looked for.
BOUNDS = {"sparse-50": (0.42, 0.47), "sparse-2of4": (0.50, 0.60)}


def make_all(folder: Path) -> list[dict[str, Any]]:
    """Every variant in `folder`, and what the raw data says of each. Those of an earlier call are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [load_corpus(part).texts for part in ("calibration", "held_out")]
    calibration, held_out = write_parts(folder, {"python-calibration": texts[0], "python-held-out": texts[1]})
    dense = CompressionRequest(
        model=str(MODEL_DIR),
        out=folder / DENSE,
        method="magnitude",
        ratio=0.0,
        calibration_tokens=CALIBRATION_TOKENS,
    )
    made = [_measured(dense, held_out)]
    for name, pattern in MASKS.items():
        masked = replace(
            dense, out=folder / name, method="sparsegpt", ratio=SHARE, pattern=pattern, calibration=str(calibration)
        )
        made.append(_measured(masked, held_out))
        made.append(_twin(masked, made[-1], held_out))
    return made


def _measured(request: CompressionRequest, held_out: Path) -> dict[str, Any]:
    manifest = load_variant(request.out) if is_variant(request.out) else compress(request, verify=verify_variant)
    found = _described(request.out, manifest, held_out)
    loss_nats = mean_nats(found["window_nats"], found["window_tokens"])
    sys.stderr.write(f"{request.out.name}: {loss_nats:.4f} nats\n")
    return found


def _twin(masked: CompressionRequest, mask: dict[str, Any], held_out: Path) -> dict[str, Any]:
    """The variant whose loss is nearest to the mask's; the other tries' folders go."""
    wanted = mean_nats(mask["window_nats"], mask["window_tokens"])
    final = masked.out.with_name(TWINS[masked.out.name])
    if is_variant(final):
        return _measured(replace(masked, out=final), held_out)
    tried: dict[float, dict[str, Any]] = {}

    def loss_of(ratio: float) -> float:
        tried[ratio] = _measured(_structured(masked, ratio), held_out)
        return mean_nats(tried[ratio]["window_nats"], tried[ratio]["window_tokens"])

    best = nearest_try(loss_of, wanted, BOUNDS[masked.out.name], AIM_NATS, MOST_TRIES)
    _structured(masked, best.ratio).out.rename(final)
    for ratio in tried.keys() - {best.ratio}:
        shutil.rmtree(_structured(masked, ratio).out)
    return tried[best.ratio] | {"name": final.name}


def _structured(masked: CompressionRequest, ratio: float) -> CompressionRequest:
    return replace(
        masked,
        out=masked.out.with_name(f"{TWINS[masked.out.name]}-try-{ratio:.6f}"),
        method="obs",
        ratio=ratio,
        pattern=None,
        units=("ffn",),
        multiple_of=8,
        repair="ridge",
        allocation="dynamic_programme",
        budget="params",
    )


def _described(folder: Path, manifest: VariantManifest, held_out: Path) -> dict[str, Any]:
    """Zeros are counted in the files, whatever the manifest says of them; losses are sums over each window's tokens."""
    counted = sparsity_of_folder(folder, Pattern(0.0))
    windows = evaluation_windows(load_tokenizer(folder), read_corpus(held_out), LENGTH_TOKENS, EVALUATED_TOKENS)
    return {
        "name": folder.name,
        "method": manifest.method.name,
        "pattern": None if manifest.sparsity is None else manifest.sparsity.pattern,
        "allocation": None if manifest.allocation is None else manifest.allocation.name,
        "architecture": manifest.architecture,
        "fingerprint": manifest.fingerprint,
        "zeros": counted.zeros,
        "weights": counted.weights,
        "params_total": manifest.footprint.params_total,
        "file_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "ffn_widths": [layer.ffn_width for layer in manifest.layers],
        "window_tokens": [len(window) - 1 for window in windows],
        "window_nats": _window_nats(folder, windows),
    }


def _window_nats(folder: Path, windows: list[list[int]]) -> list[float]:
    model, found = load_model(folder), []
    with torch.inference_mode():
        for window in windows:
            found.append(Sums())
            add_window(found[-1], model, None, torch.tensor([window]))
    return [sums.loss_nats for sums in found]
