"""The calibration set: seeded windows of equal length from a text file or a hub dataset.

Whole documents are preferred, one window each from its start, because that is what the model was trained to see. Text
without enough long documents is joined and cut into slots instead; no two windows overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.variant import CalibrationRef
from compressors.text import TextCorpus, corpus_of, encode_documents, read_corpus, window_prefix

_DATASET_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?$")
_CHARACTERS_PER_TOKEN = 16  # far more than any tokenizer needs, so that a dataset yields enough long documents


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """`windows` are token ids [windows, tokens]."""

    windows: Tensor
    reference: CalibrationRef


def draw_calibration(
    text: str, tokenizer: Any, *, total_tokens: int, window_tokens: int, seed: int, vocabulary: int
) -> CalibrationSet:
    """`total_tokens // window_tokens` windows from the file or hub dataset `text`.

    Raises ConfigError if the text is missing, empty or too short, or if the sizes make no window.
    """
    count = _window_count(total_tokens, window_tokens)
    corpus = open_corpus(text, total_tokens * _CHARACTERS_PER_TOKEN)
    ids = encode_documents(tokenizer, corpus)
    windows = torch.tensor(_draw(ids, window_prefix(tokenizer), count, window_tokens, seed, corpus.name))
    if int(windows.max()) >= vocabulary:
        raise ConfigError(
            f"the tokenizer gives token {int(windows.max())}, the model knows {vocabulary}. Match the two."
        )
    reference = CalibrationRef(
        corpus=corpus.name, sha256=corpus.sha256, tokens=windows.numel(), window_tokens=window_tokens, seed=seed
    )
    return CalibrationSet(windows, reference)


def open_corpus(text: str, enough_characters: int) -> TextCorpus:
    """A text file if one is there, else a hub dataset `owner/name` or `owner/name:config`."""
    path = Path(text)
    if path.exists() or path.suffix in {".txt", ".md", ".jsonl"} or not _DATASET_ID.match(text):
        return read_corpus(path)
    return _hub_corpus(text, enough_characters)


def _hub_corpus(dataset: str, enough_characters: int) -> TextCorpus:
    try:
        from datasets import load_dataset  # the optional dependency is needed on this path only
    except ImportError as error:
        raise ConfigError(
            f"{dataset} is no file, and hub datasets need the package datasets. "
            "Install the extra eval or give a text file."
        ) from error
    name, _, config = dataset.partition(":")
    documents: list[str] = []
    size = 0
    try:
        for row in load_dataset(name, config or None, split="train", streaming=True):
            documents.append(row["text"])
            size += len(documents[-1])
            if size >= enough_characters:
                break
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{dataset} is neither a file nor a hub dataset with a train split and a text column ({reason}). "
            "Check the name and the network, or give a text file."
        ) from error
    return corpus_of(dataset, "\n<|endoftext|>\n".join(documents))


def _window_count(total_tokens: int, window_tokens: int) -> int:
    if window_tokens < 2 or total_tokens < window_tokens:
        raise ConfigError(
            f"{total_tokens} calibration tokens in windows of {window_tokens} make no window. "
            "Windows need 2 tokens or more, and the total must hold at least one."
        )
    return total_tokens // window_tokens


def _draw(
    documents: list[list[int]], prefix: list[int], count: int, window_tokens: int, seed: int, name: str
) -> list[list[int]]:
    """[count][window_tokens] ids. Raises ConfigError naming what the text could give."""
    random = Random(seed)
    own = window_tokens - len(prefix)
    long_enough = [ids for ids in documents if len(ids) >= own]
    if len(long_enough) >= count:
        return [prefix + long_enough[index][:own] for index in random.sample(range(len(long_enough)), count)]
    stream = [token for ids in documents for token in prefix + ids]
    slots = len(stream) // own
    if slots < count:
        raise ConfigError(
            f"{name} is too short: it gives {slots} windows of {window_tokens} tokens, {count} were asked for. "
            "Give more text or lower --calibration-tokens."
        )
    return [prefix + stream[slot * own : (slot + 1) * own] for slot in random.sample(range(slots), count)]
