"""Writing trained weights over the layout that the parent variant has: same files, same names, same stored types.

Training changes values only, so configuration and tokenizer are the parent's own, byte for byte; whatever class its
checkpoint names, the new one names too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from compressors.arch import ModelView
from compressors.export import copy_companions, probe_ids, save_probe
from compressors.headers import INDEX_NAME, weight_files
from compressors.recovery.patient import device_of
from compressors.shards import Resident, Stored, tensors_of_file, write_shard


def write_checkpoint(view: ModelView, parent: Path, out: Path) -> None:
    """Everything but the manifest, the probe included.

    The model in memory is rounded to the stored types as well, so that what is measured afterwards is what was
    written. Raises ConfigError if the disk is full.
    """
    for path in weight_files(parent):
        _write_like(tensors_of_file(path), view, out / path.name)
    for name in ("config.json", INDEX_NAME):
        if (parent / name).is_file():
            shutil.copyfile(parent / name, out / name)
    copy_companions(parent, out)
    _write_probe(view, out)


def _write_like(stored: dict[str, Stored], view: ModelView, path: Path) -> None:
    trained = view.model.state_dict()
    with torch.no_grad():
        for name, tensor in stored.items():
            trained[name].copy_(trained[name].to(tensor.dtype))
    write_shard(path, {name: Resident(trained[name], tensor.dtype) for name, tensor in stored.items()})


def _write_probe(view: ModelView, out: Path) -> None:
    """On the CPU, where the fresh process will compute them again."""
    ids = probe_ids(view.config.vocab_size, view.config.max_position_embeddings)
    device = device_of(view)
    with torch.inference_mode():
        logits = view.model.to("cpu")(input_ids=ids, use_cache=False).logits
    view.model.to(device)
    save_probe(out, ids, logits)
