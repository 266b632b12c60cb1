"""A checkpoint of random bfloat16 weights in any shape, written block by block: never more than some rows in memory.

With it comes a tokenizer of words and a text of them, so that it can be calibrated on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from compressors.headers import INDEX_NAME
from compressors.shards import Computed, write_shard
from compressors.skeleton import Skeleton
from modeling.pruned_config import MODEL_TYPES

TEXT_NAME = "text.txt"
_PIECE_ELEMENTS = 1 << 24
_SCALE = 0.02
_WORDS = 5000


def write_checkpoint(folder: Path, config: Mapping[str, Any], text_tokens: int, device: str = "cpu") -> None:
    """`device` draws; one shard per block and one for the rest. `text_tokens` words are in the text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (architecture,) = config["architectures"]
    made = AutoConfig.for_model(**{**config, "model_type": MODEL_TYPES[architecture]})
    made.save_pretrained(folder)
    draw = torch.Generator(device=device).manual_seed(0)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in Skeleton(made).shapes().items():
        block = name.split(".")[2] if name.startswith("model.layers.") else "ends"
        shards.setdefault(f"model-{block}.safetensors", {})[name] = shape
    for file, shapes in shards.items():
        write_shard(folder / file, {name: _drawn(shape, draw) for name, shape in shapes.items()})
    weight_map = {name: file for file, shapes in shards.items() for name in shapes}
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    _write_words(folder, min(_WORDS, int(config["vocab_size"])), text_tokens)


def _drawn(shape: tuple[int, ...], draw: torch.Generator) -> Computed:
    """Normal; norms and biases, which are vectors, are ones."""

    def pieces() -> Iterator[Tensor]:
        if len(shape) == 1:
            yield torch.ones(shape)
            return
        rows = max(1, _PIECE_ELEMENTS // shape[1])
        for first in range(0, shape[0], rows):
            size = (min(rows, shape[0] - first), shape[1])
            yield torch.randn(size, generator=draw, device=draw.device).mul_(_SCALE)

    return Computed(torch.bfloat16, shape, pieces)


def _write_words(folder: Path, count: int, text_tokens: int) -> None:
    names = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, count))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    words = torch.randint(3, count, (text_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / TEXT_NAME).write_text(" ".join(f"w{word}" for word in words), encoding="utf-8")
