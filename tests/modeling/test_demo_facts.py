"""The baselines' identities, the card's derived numbers, and which files are text to learn from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.demo_card import render_card
from modeling.ngram import bigram_loss_nats, unigram_loss_nats
from modeling.python_corpus import load_corpus, split_of

MODEL = Path(__file__).parents[2] / "prunebench" / "demo_model"
VOCABULARY = 5
tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=60)


@given(train=tokens)
@settings(max_examples=50, deadline=None)
def test_unigram_probabilities_sum_to_one(train: list[int]) -> None:
    losses = [unigram_loss_nats(np.array(train), np.array([token]), VOCABULARY) for token in range(VOCABULARY)]
    assert np.exp(-np.array(losses)).sum() == pytest.approx(1)


@given(train=tokens, history=st.integers(0, VOCABULARY - 1))
@settings(max_examples=50, deadline=None)
def test_bigram_probabilities_sum_to_one_after_any_history(train: list[int], history: int) -> None:
    losses = [bigram_loss_nats(np.array(train), np.array([history, token]), VOCABULARY) for token in range(VOCABULARY)]
    assert np.exp(-np.array(losses)).sum() == pytest.approx(1)


@given(train=tokens, held_out=tokens)
@settings(max_examples=50, deadline=None)
def test_losses_are_means_over_tokens(train: list[int], held_out: list[int]) -> None:
    """Twice the same text has the same unigram loss; a bigram loss is the mean over its pairs."""
    one, text = np.array(train), np.array(held_out)
    assert unigram_loss_nats(one, np.tile(text, 2), VOCABULARY) == pytest.approx(
        unigram_loss_nats(one, text, VOCABULARY)
    )
    pairs = [bigram_loss_nats(one, text[at : at + 2], VOCABULARY) for at in range(len(text) - 1)]
    assert bigram_loss_nats(one, text, VOCABULARY) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("vocabulary", [2, 10, 2048])
def test_without_anything_learnt_the_loss_is_that_of_a_uniform_guess(vocabulary: int) -> None:
    every_token_once = np.arange(vocabulary)
    assert unigram_loss_nats(every_token_once, every_token_once, vocabulary) == pytest.approx(math.log(vocabulary))


@pytest.fixture
def facts() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((MODEL / "training.json").read_text())
    return read


def bits_on_the_card(facts: dict[str, Any]) -> float:
    return float(render_card(facts).partition("per character the model needs\n")[2].partition(".\n")[0])


def test_bits_per_character_follow_from_the_loss(facts: dict[str, Any]) -> None:
    """ln 2 nats for each token of four characters is a quarter of a bit for a character."""
    facts |= {"held_out_loss_nats": math.log(2), "held_out_tokens": 1000, "held_out_characters": 4000}
    assert bits_on_the_card(facts) == 0.25
    facts |= {"held_out_characters": 1000}
    assert bits_on_the_card(facts) == 1.0


DERIVED = [
    ({"parameters": 1_234_567}, "A 1.23 M-parameter Llama", "millions of parameters"),
    ({"seen_tokens": 300, "train_tokens": 120}, "300 tokens (2.5 passes over 120)", "passes over the text"),
    ({"python": "3.99.1", "torch": "9.9"}, "CPython 3.99.1, torch 9.9", "the versions"),
    ({"held_out_tokens": 12_345}, "12,345 tokens", "large numbers are grouped"),
]


@pytest.mark.parametrize(("changes", "sentence", "what"), DERIVED, ids=[what for *_, what in DERIVED])
def test_the_card_states_what_the_facts_imply(
    facts: dict[str, Any], changes: dict[str, Any], sentence: str, what: str
) -> None:
    assert sentence not in render_card(facts)
    assert sentence in render_card(facts | changes), what


def test_the_card_compares_with_a_uniform_guess_over_the_vocabulary(facts: dict[str, Any]) -> None:
    recipe = facts["recipe"] | {"vocabulary": 1000}
    assert f"| uniform guess | {math.log(1000):.3f} |" in render_card(facts | {"recipe": recipe})


@pytest.mark.parametrize("missing", ["parameters", "held_out_loss_nats", "bigram_loss_nats", "recipe"])
def test_a_card_without_its_facts_is_no_card(facts: dict[str, Any], missing: str) -> None:
    del facts[missing]
    with pytest.raises(KeyError, match=missing):
        render_card(facts)


def test_committed_facts_agree_with_each_other(facts: dict[str, Any]) -> None:
    recipe = facts["recipe"]
    assert facts["seen_tokens"] == recipe["steps"] * recipe["batch_windows"] * recipe["window_tokens"]
    assert [step for step, _ in facts["curve"]] == list(range(20, recipe["steps"] + 1, 20))
    assert facts["curve"][-1][1] < facts["curve"][0][1] / 2
    config = json.loads((MODEL / "config.json").read_text())
    assert (config["vocab_size"], config["hidden_size"]) == (recipe["vocabulary"], recipe["hidden"])
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (recipe["layers"], recipe["ffn"])


LONG = "x = 1\n" * 50
FILES = [
    ("module.py", LONG, True, "a module"),
    ("package/inner/module.py", LONG, True, "a module of a package"),
    ("package/contest.py", LONG, True, "a name that only ends like an excluded one"),
    ("test/module.py", LONG, False, "tests"),
    ("package/tests/module.py", LONG, False, "tests of a package"),
    ("site-packages/other.py", LONG, False, "what somebody installed"),
    ("config-3.12-x86_64/build.py", LONG, False, "how this interpreter was built"),
    ("_sysconfigdata_x.py", LONG, False, "likewise"),
    ("encodings/cp037.py", LONG, False, "tables of numbers"),
    ("short.py", "x = 1\n", False, "too short to be text"),
    ("edge.py", "x" * 200, True, "just long enough"),
    ("almost.py", "x" * 199, False, "one character too short"),
    ("data.txt", LONG, False, "no source"),
]


@pytest.mark.parametrize(("name", "text", "kept", "what"), FILES, ids=[name for name, *_ in FILES])
def test_which_files_are_read(tmp_path: Path, name: str, text: str, kept: bool, what: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert load_corpus(split_of(name), tmp_path).texts == ((text,) if kept else ()), what


def test_the_hash_covers_names_and_contents_and_their_border(tmp_path: Path) -> None:
    """Moving a character from a name into the text behind it must not go unnoticed."""

    def hash_of(folder: str, name: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        return load_corpus("train", tmp_path / folder).sha256

    names = [name for name in (f"m{index}.py" for index in range(50)) if split_of(name) == "train"]
    one, other = names[:2]
    hashes = [
        hash_of("first", one, LONG),
        hash_of("other name", other, LONG),
        hash_of("other text", one, LONG + "#"),
        hash_of("shorter text", one, LONG[:-1]),
    ]
    assert len(set(hashes)) == 4
    assert hash_of("again", one, LONG) == hashes[0]


def test_splits_have_about_the_promised_shares() -> None:
    drawn = [split_of(f"package_{index}/module.py") for index in range(8000)]
    for split, share in (("held_out", 2 / 40), ("calibration", 2 / 40), ("train", 36 / 40)):
        deviation = math.sqrt(share * (1 - share) / len(drawn))
        assert drawn.count(split) / len(drawn) == pytest.approx(share, abs=5 * deviation)
