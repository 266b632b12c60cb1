"""Writing a pruned model as a checkpoint: finished blocks put together into shards, configuration, tokenizer, probe.

Tensors are copied from file to file in pieces: neither a block nor the embedding is in memory for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from compressors.blocks import CheckpointModel
from compressors.headers import INDEX_NAME, SINGLE_NAME
from compressors.relabel import SHAPE_FIELDS
from compressors.shards import Resident, Writable, write_shard
from compressors.streams import first_states
from compressors.workspace import BlockFolder

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
_MAX_SHARD_BYTES = 5_000_000_000


def write_config(config: Any, out: Path) -> None:
    """`config.json` with every shape spelled out: readers' defaults for what is missing differ."""
    shapes = {name: getattr(config, name) for name in SHAPE_FIELDS}
    content = {**config.to_diff_dict(), **shapes, "tie_word_embeddings": config.tie_word_embeddings}
    (out / "config.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


class Ends(Protocol):
    """The tensors outside the blocks: embedding, final norm and, unless tied, head."""

    def require_finite_ends(self) -> None:
        """Raises CheckpointError if one holds values that are not finite."""

    def ends(self) -> Mapping[str, Writable]: ...


def assemble_weights(model: Ends, blocks: BlockFolder, kept_layers: tuple[int, ...], out: Path) -> None:
    """The blocks renumbered, with both ends, in one or more shards and an index if more.

    Raises ConfigError if the disk is full, CheckpointError if an end holds values that are not finite.
    """
    model.require_finite_ends()
    tensors: dict[str, Writable] = dict(model.ends())
    for position, index in enumerate(kept_layers):
        for name, stored in blocks.tensors(index).items():
            tensors[f"model.layers.{position}.{name}"] = stored
    shards = list(_shards(tensors))
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        filename = SINGLE_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(out / filename, shard)
        names |= dict.fromkeys(shard, filename)
    if len(shards) > 1:
        total = sum(stored.header.size_bytes for stored in tensors.values())
        index_content = {"metadata": {"total_size": total}, "weight_map": names}
        (out / INDEX_NAME).write_text(json.dumps(index_content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def copy_companions(source: Path, out: Path) -> None:
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_probe(model: CheckpointModel, blocks: BlockFolder, kept_layers: tuple[int, ...], out: Path) -> None:
    """Fixed token ids and the logits that the finished blocks give on them, for the fresh process to compare with."""
    ids = probe_ids(model.config.vocab_size, model.config.max_position_embeddings)
    course = first_states(model, ids)
    for index in kept_layers:
        course.move_through(index, blocks.load(index))
    save_probe(out, ids, model.logits(course.states).cpu())


def save_probe(out: Path, ids: Tensor, logits: Tensor) -> None:
    """Raises ConfigError if the disk is full."""
    probe = {"ids": ids, "logits": logits}
    write_shard(out / PROBE_NAME, {name: Resident(tensor, tensor.dtype) for name, tensor in probe.items()})


def probe_ids(vocabulary: int, context_tokens: int) -> Tensor:
    """[1, tokens] ids spread over the vocabulary; the multiplier is prime, so small vocabularies do not repeat soon."""
    tokens = min(_PROBE_TOKENS, context_tokens)
    return (torch.arange(tokens, dtype=torch.long) * 7919 % vocabulary)[None]


def _shards(tensors: Mapping[str, Writable]) -> Iterator[dict[str, Writable]]:
    """Consecutive tensors, each shard as many as fit; a tensor larger than a shard has one of its own."""
    shard: dict[str, Writable] = {}
    size = 0
    for name, stored in tensors.items():
        if shard and size + stored.header.size_bytes > _MAX_SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = stored
        size += stored.header.size_bytes
    yield shard
