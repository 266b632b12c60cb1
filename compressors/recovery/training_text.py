"""The text that a recovery learns from: whole documents held out first, the rest joined and cut into equal windows.

Held out are documents, never pieces of one, and a document that stands in the text twice is held out twice. Which ones
depends on the text alone, so that runs with different seeds are judged on the same documents. The training windows are
cut from all other documents one behind the other, a separator (BOS, else EOS) in front of each, as pre-training does:
no token is padding and none is thrown away but the last incomplete window's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from artifacts.errors import ConfigError
from compressors.quality import evaluation_windows
from compressors.text import TextCorpus, encode_documents, window_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingText:
    """`windows` [N, T] to learn from; `held_out` windows of up to T tokens, one document each or a part of it."""

    windows: Tensor
    held_out: tuple[Tensor, ...]
    held_out_documents: int


def prepare_text(
    corpus: TextCorpus,
    tokenizer: Any,
    *,
    window_tokens: int,
    held_out_share: float,
    held_out_tokens: int,
    vocabulary: int,
) -> TrainingText:
    """`held_out_tokens` bounds how many tokens are predicted in one evaluation.

    Raises ConfigError if the text has too few documents or tokens, or tokens that the model does not know.
    """
    training, held_out = split_documents(corpus, held_out_share)
    windows = _pack(encode_documents(tokenizer, training), tokenizer, window_tokens)
    if not windows:
        raise ConfigError(
            f"{corpus.name} is too short: what is not held out makes no window of {window_tokens} tokens. "
            "Give more text."
        )
    judged = evaluation_windows(tokenizer, held_out, window_tokens, held_out_tokens)
    largest = max(max(map(max, windows)), max(map(max, judged)))
    if largest >= vocabulary:
        raise ConfigError(f"the tokenizer gives token {largest}, the model knows {vocabulary}. Match the two.")
    return TrainingText(
        windows=torch.tensor(windows),
        held_out=tuple(torch.tensor([window]) for window in judged),
        held_out_documents=len(held_out.documents),
    )


def split_documents(corpus: TextCorpus, held_out_share: float) -> tuple[TextCorpus, TextCorpus]:
    """(to learn from, held out), at least one document held out. Raises ConfigError if none is left to learn from."""
    documents = corpus.documents
    count = max(1, round(held_out_share * len(documents)))
    chosen = sorted(Random(corpus.sha256).sample(range(len(documents)), count))
    held_out = {documents[index] for index in chosen}
    rest = tuple(document for document in documents if document not in held_out)
    if not rest:
        raise ConfigError(
            f"{corpus.name} leaves no document to learn from: it has {len(documents)}, {count} of them are held out. "
            "Give two or more, separated by lines that hold only <|endoftext|>."
        )
    return replace(corpus, documents=rest), replace(corpus, documents=tuple(documents[index] for index in chosen))


def window_order(windows: int, per_step: int, seed: int, start_step: int) -> Iterator[Tensor]:
    """The window indices [per_step] of each step from `start_step` on, without end.

    Every pass over the text is a permutation that the seed and the pass number alone decide, so the order needs no
    state: a continued run draws what the uninterrupted one would have drawn.
    """
    position, drawn_pass, order = start_step * per_step, -1, torch.empty(0, dtype=torch.long)
    while True:
        step: list[Tensor] = []
        wanted = per_step
        while wanted:
            current, offset = divmod(position, windows)
            if current != drawn_pass:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + current)
                drawn_pass, order = current, torch.randperm(windows, generator=generator)
            taken = order[offset : offset + wanted]
            step.append(taken)
            position, wanted = position + len(taken), wanted - len(taken)
        yield torch.cat(step)


def _pack(documents: list[list[int]], tokenizer: Any, window_tokens: int) -> list[list[int]]:
    """Windows begin with BOS where the tokenizer has one, as they do when a model is evaluated or served."""
    prefix = window_prefix(tokenizer)
    end = tokenizer.eos_token_id
    separator = prefix or ([] if end is None else [int(end)])
    stream = [token for ids in documents for token in separator + ids]
    own = window_tokens - len(prefix)
    return [prefix + stream[start : start + own] for start in range(0, len(stream) - own + 1, own)]
