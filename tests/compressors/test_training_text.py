"""What is held out, what is trained on, and in which order."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, random_text, save_tokenizer, word

from artifacts.errors import ConfigError
from compressors.recovery.training_text import TrainingText, prepare_text, split_documents, window_order
from compressors.source import load_tokenizer
from compressors.text import TextCorpus, corpus_of


def corpus(documents: int = 12, words: int = 40) -> TextCorpus:
    return corpus_of("text", random_text(documents, words))


@pytest.fixture(params=[True, False], ids=["with BOS", "without BOS"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    save_tokenizer(tmp_path, bos=request.param)
    return load_tokenizer(tmp_path)


def prepared(tokenizer: Any, text: TextCorpus, **changes: Any) -> TrainingText:
    sizes: dict[str, Any] = {"window_tokens": 16, "held_out_share": 0.2, "held_out_tokens": 1000}
    return prepare_text(text, tokenizer, vocabulary=VOCABULARY, **{**sizes, **changes})


@pytest.mark.parametrize(("documents", "share", "held_out"), [(40, 0.05, 2), (12, 0.05, 1), (2, 0.05, 1), (10, 0.3, 3)])
def test_share_is_in_documents_and_at_least_one(documents: int, share: float, held_out: int) -> None:
    text = corpus(documents, 5)
    training, judged = split_documents(text, share)
    assert len(judged.documents) == held_out
    assert sorted(training.documents + judged.documents) == sorted(text.documents)
    assert training.sha256 == judged.sha256 == text.sha256


def test_a_held_out_document_is_held_out_wherever_it_stands() -> None:
    pieces = [f"{word(i)} {word(i + 1)}" for i in range(3, 9)]
    doubled = corpus_of("text", "\n<|endoftext|>\n".join(pieces * 3))
    training, judged = split_documents(doubled, 0.2)
    assert not set(training.documents) & set(judged.documents)
    assert len(training.documents) == 3 * (6 - len(set(judged.documents)))


def test_the_split_follows_the_text_alone() -> None:
    assert split_documents(corpus(), 0.2) == split_documents(corpus(), 0.2)
    others = [split_documents(corpus_of("text", random_text(12, 40, seed)), 0.2)[1].documents for seed in range(8)]
    positions = [
        tuple(corpus_of("text", random_text(12, 40, seed)).documents.index(document) for document in held_out)
        for seed, held_out in enumerate(others)
    ]
    assert len(set(positions)) > 1


@pytest.mark.parametrize("text", [random_text(1, 40), "\n<|endoftext|>\n".join(["w5 w6"] * 4)])
def test_one_document_cannot_be_split(text: str) -> None:
    with pytest.raises(ConfigError, match="no document to learn from"):
        split_documents(corpus_of("text", text), 0.05)


def test_windows_are_full_and_hold_every_token_once(tokenizer: Any) -> None:
    text = corpus()
    made = prepared(tokenizer, text)
    has_bos = tokenizer.bos_token_id is not None
    own = 15 if has_bos else 16
    separator = 1 if has_bos else 2
    training, _ = split_documents(text, 0.2)
    stream = [token for doc in training.documents for token in (separator, *(int(w[1:]) for w in doc.split()))]
    assert made.windows.shape == (len(stream) // own, 16)
    body = made.windows[:, 16 - own :].flatten().tolist()
    assert body == stream[: len(body)]
    assert not has_bos or bool((made.windows[:, 0] == 1).all())


def test_no_held_out_token_sequence_is_trained_on(tokenizer: Any) -> None:
    made = prepared(tokenizer, corpus())
    trained = made.windows.flatten().tolist()
    runs = {tuple(trained[i : i + 6]) for i in range(len(trained))}
    judged = [window[0].tolist() for window in made.held_out]
    assert made.held_out_documents == 2 and judged
    assert not {tuple(w[i : i + 6]) for w in judged for i in range(1, len(w) - 6)} & runs


def test_held_out_tokens_are_bounded(tokenizer: Any) -> None:
    made = prepared(tokenizer, corpus(), held_out_tokens=20)
    assert sum(window.shape[1] - 1 for window in made.held_out) == 20


def test_too_little_text_and_foreign_tokens(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="too short"):
        prepared(tokenizer, corpus(2, 3))
    with pytest.raises(ConfigError, match="the model knows 50"):
        prepare_text(corpus(), tokenizer, window_tokens=16, held_out_share=0.2, held_out_tokens=100, vocabulary=50)


@pytest.mark.parametrize("per_step", [1, 3, 7, 20])
def test_every_pass_reads_every_window_once(per_step: int) -> None:
    steps = list(islice(window_order(7, per_step, seed=3, start_step=0), 21))
    drawn = torch.cat(steps).tolist()
    passes = [drawn[start : start + 7] for start in range(0, len(drawn) - 6, 7)]
    assert all(Counter(each) == Counter(range(7)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1, "each pass has an order of its own"
    assert {len(step) for step in steps} == {per_step}


@pytest.mark.parametrize("start", [1, 4, 13])
def test_order_continues_where_it_was(start: int) -> None:
    whole = list(islice(window_order(7, 3, seed=5, start_step=0), 20))
    continued = list(islice(window_order(7, 3, seed=5, start_step=start), 20 - start))
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], continued, strict=True))


def test_seeds_give_other_orders() -> None:
    first, second = (torch.cat(list(islice(window_order(50, 5, seed, 0), 10))) for seed in (0, 1))
    assert not torch.equal(first, second)
