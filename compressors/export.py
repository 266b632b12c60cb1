"""Writing a pruned model as a stock checkpoint: weights in the source's type, configuration, tokenizer, probe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from artifacts.files import disk_error
from compressors.arch import ModelView
from compressors.footprint import HEAD
from compressors.headers import INDEX_NAME
from compressors.relabel import SHAPE_FIELDS, stock_config

# Everything a stock engine reads beside weights and configuration.
_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
PROBE_NAME = "probe.safetensors"
_PROBE_TOKENS = 24
_MAX_SHARD = "5GB"
_READABLE = 0o644


def export_checkpoint(view: ModelView, architecture: str, dtype: torch.dtype, source: Path, out: Path) -> str:
    """Writes everything but the manifest into `out`; returns the class the checkpoint names.

    Rounds the model in memory to `dtype` as well, so that the probe logits are those of the stored weights. Raises
    ConfigError if the disk is full.
    """
    round_weights(view.model, dtype)
    config = stock_config(view, architecture, str(dtype).removeprefix("torch."))
    write_config(config, out)
    write_weights(stored_tensors(view, dtype), out)
    copy_companions(source, out)
    write_probe(view, out)
    return str(config.architectures[0])


def write_config(config: Any, out: Path) -> None:
    """`config.json` with every shape spelled out: readers' defaults for what is missing differ."""
    shapes = {name: getattr(config, name) for name in SHAPE_FIELDS}
    content = {**config.to_diff_dict(), **shapes, "tie_word_embeddings": config.tie_word_embeddings}
    (out / "config.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Rounds every float32 parameter to what `dtype` can hold."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(torch.float32)


def stored_tensors(view: ModelView, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters by name, on the CPU, as they are stored. A tied head is stored as the embedding only."""
    named = view.model.state_dict()
    if view.is_tied:
        named.pop(HEAD)
    return {name: tensor.to("cpu", dtype).contiguous() for name, tensor in named.items()}


def write_weights(tensors: dict[str, Tensor], out: Path) -> None:
    """One or more shards, with an index if more. Raises ConfigError if the disk is full."""
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=_MAX_SHARD)
    for filename, names in split.filename_to_tensors.items():
        _save({name: tensors[name] for name in names}, out / filename)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (out / INDEX_NAME).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def copy_companions(source: Path, out: Path) -> None:
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_probe(view: ModelView, out: Path) -> None:
    """Fixed token ids and the in-memory model's logits on them, for the fresh process to compare with."""
    ids = probe_ids(view.config.vocab_size, view.config.max_position_embeddings)
    view.model.to("cpu")
    with torch.inference_mode():
        logits = view.model(input_ids=ids, use_cache=False).logits
    _save({"ids": ids, "logits": logits.contiguous()}, out / PROBE_NAME)


def probe_ids(vocabulary: int, context_tokens: int) -> Tensor:
    """[1, tokens] ids spread over the vocabulary; the multiplier is prime, so small vocabularies do not repeat soon."""
    tokens = min(_PROBE_TOKENS, context_tokens)
    return (torch.arange(tokens, dtype=torch.long) * 7919 % vocabulary)[None]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    # safetensors reports a failed write as an error of its own, which no handler of OSError would see.
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(_READABLE)  # it is created for its owner alone, but engines often run as another user
    except (OSError, SafetensorError) as error:
        raise disk_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error
