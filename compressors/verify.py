"""Is a variant directory what it says? `python -m compressors.verify DIR` answers in a process of its own.

A fresh process proves that the files alone carry the model: unpatched Transformers must load them, the shapes in
`config.json` must be the tensors' shapes, footprint, ratios and zeros must follow from the files, and the logits on
fixed token ids must be those that the pruned model gave in memory. Without stored probe logits (they exist only while
a variant is being made) the logits must still be finite.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from artifacts.errors import CheckpointError, PrunebenchError
from artifacts.variant import Ratios, VariantManifest, load_variant, verify_checksums
from compressors.export import PROBE_NAME, probe_ids
from compressors.footprint import footprint_of_folder
from compressors.headers import read_headers
from compressors.source import is_tied, load_model, read_config
from compressors.sparsity import verify_sparsity
from modeling.pruned_config import SHAPE_KEYS

TOLERANCE = 1e-5
_TIMEOUT_S = 3600


def verify_in_fresh_process(folder: Path) -> None:
    """Raises CheckpointError with the child's sentence if the variant is not what it says."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "compressors.verify", str(folder.resolve())]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder.parent
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CheckpointError(f"The variant did not pass verification: {lines[-1]}")


def verify_variant(folder: Path) -> None:
    """All checks, in this process. Raises CheckpointError naming the first that fails."""
    manifest = load_variant(folder)
    verify_checksums(folder, manifest)
    config = read_config(folder)
    verify_shapes(folder, config)
    verify_ratios(folder, config, manifest)
    verify_sparsity(folder, manifest.sparsity)
    verify_logits(folder)


def verify_shapes(folder: Path, config: dict[str, Any]) -> None:
    """Every tensor whose shape `config.json` fixes has that shape."""
    shapes = {name: header.shape for name, header in read_headers(folder).items()}
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise CheckpointError(f"{folder}: {name} has shape {shapes.get(name)}, config.json implies {shape}.")
    beyond = f"model.layers.{config['num_hidden_layers']}."
    if any(name.startswith(beyond) for name in shapes):
        raise CheckpointError(f"{folder} holds more layers than the {config['num_hidden_layers']} of config.json.")


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Matrix shapes by tensor name, as `config.json` implies them."""
    hidden = config["hidden_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index, layer in enumerate(_layer_shapes(config)):
        shapes |= _matrix_shapes(f"model.layers.{index}", hidden, config["head_dim"], layer)
    return shapes


def _layer_shapes(config: dict[str, Any]) -> list[dict[str, int]]:
    """One entry per layer; stock classes have one shape for all."""
    flat = (config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"])
    everywhere = [dict(zip(SHAPE_KEYS, flat, strict=True))] * config["num_hidden_layers"]
    return config.get("layer_shapes") or everywhere


def _matrix_shapes(prefix: str, hidden: int, head_width: int, layer: dict[str, int]) -> dict[str, tuple[int, int]]:
    queries, keys, ffn = layer["query_heads"] * head_width, layer["kv_heads"] * head_width, layer["ffn_width"]
    attention = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    attention |= {"o_proj": (hidden, queries)}
    mlp = {"gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn)}
    named = {f"{prefix}.self_attn.{name}.weight": shape for name, shape in attention.items() if queries}
    return named | {f"{prefix}.mlp.{name}.weight": shape for name, shape in mlp.items() if ffn}


def verify_ratios(folder: Path, config: dict[str, Any], manifest: VariantManifest) -> None:
    footprint = footprint_of_folder(folder, tied=is_tied(config))
    if footprint != manifest.footprint:
        raise CheckpointError(f"{folder}: the files weigh {footprint}, variant.json says {manifest.footprint}.")
    ratios = Ratios.between(manifest.ratios.nominal, manifest.base.footprint, footprint)
    if ratios != manifest.ratios:
        raise CheckpointError(f"{folder}: the files give {ratios}, variant.json says {manifest.ratios}.")


def verify_logits(folder: Path) -> None:
    probe = folder / PROBE_NAME
    stored = load_file(probe) if probe.is_file() else None
    model = load_model(folder)
    ids = stored["ids"] if stored else probe_ids(model.config.vocab_size, model.config.max_position_embeddings)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(f"{folder}: the reloaded model gives logits that are not finite.")
    distance = 0.0 if stored is None else float((logits - stored["logits"]).abs().max())
    if distance > TOLERANCE:
        raise CheckpointError(
            f"{folder}: the reloaded logits differ by {distance:.2g} from those in memory, allowed is {TOLERANCE:g}."
        )


def main(arguments: list[str]) -> int:
    try:
        verify_variant(Path(arguments[0]))
    except PrunebenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
