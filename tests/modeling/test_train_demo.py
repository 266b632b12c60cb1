"""The training of the demo model: resumable to the bit, and the committed model is what its card says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling.demo_card import render_card
from modeling.python_corpus import Corpus, load_corpus
from modeling.train_demo import BOS, Recipe, Trainer, held_out_loss_nats, run_training, train_tokenizer

MODEL = Path(__file__).parents[2] / "prunebench" / "demo_model"
TINY = Recipe(
    vocabulary=300,
    hidden=32,
    ffn=48,
    layers=2,
    query_heads=2,
    kv_heads=1,
    head_dim=16,
    context_tokens=64,
    window_tokens=16,
    batch_windows=2,
    steps=6,
    warmup_steps=2,
    decay_horizon_steps=300,
    cooldown_start=4,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tokens() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, 300, 500)


def test_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight = Trainer(TINY, tokens())
    run_training(straight, tmp_path / "straight.pt")
    killed = Trainer(TINY, tokens())
    for _ in range(3):
        killed.train_step()
    killed.save(tmp_path / "killed.pt")
    resumed = Trainer(TINY, tokens())
    run_training(resumed, tmp_path / "killed.pt")
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(TINY, tokens()).save(tmp_path / "state.pt")
    other = Trainer(replace(TINY, seed=1), tokens())
    with pytest.raises(SystemExit, match="another recipe"):
        other.load(tmp_path / "state.pt")


def test_training_learns_a_pattern(tmp_path: Path) -> None:
    pattern = np.tile(np.arange(8, dtype=np.int64), 100)
    trainer = Trainer(replace(TINY, steps=250, cooldown_start=100), pattern)
    before = held_out_loss_nats(trainer.model, pattern, 16)
    run_training(trainer, tmp_path / "state.pt")
    assert held_out_loss_nats(trainer.model, pattern, 16) < 0.5 < math.log(100) < before


def test_tokenizer_is_lossless_and_puts_bos_first() -> None:
    corpus = Corpus("train", ("def f(x):\n    return x + 1\n" * 20,), "")
    tokenizer = train_tokenizer(corpus, 300)
    text = "def g(ü):\n\treturn 'Ω'\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == BOS
    assert tokenizer.decode(ids[1:]) == text


def test_committed_model_is_small_and_shaped_as_promised() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert sum(p.stat().st_size for p in MODEL.iterdir()) <= 12 * 2**20
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] >= 8
    assert config["head_dim"] >= 32
    assert config["num_key_value_heads"] < config["num_attention_heads"]


def test_committed_model_beats_the_bigram_by_far_on_held_out_text() -> None:
    facts = json.loads((MODEL / "training.json").read_text())
    assert facts["held_out_loss_nats"] < facts["bigram_loss_nats"] - 1.0 < facts["unigram_loss_nats"]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = np.concatenate([np.asarray(tokenizer(t)["input_ids"]) for t in load_corpus("held_out").texts])
    measured = held_out_loss_nats(model, ids[: 40 * 513], 512)
    assert measured == pytest.approx(facts["held_out_loss_nats"], abs=0.35)


def test_card_is_drawn_from_the_facts() -> None:
    facts = json.loads((MODEL / "training.json").read_text())
    assert (MODEL / "README.md").read_text() == render_card(facts)
    assert f"**{facts['held_out_loss_nats']:.3f}**" in render_card(facts)


@pytest.mark.parametrize(
    ("step", "fraction"),
    [(0, 0.01), (99, 1 - 99 / 2000), (1000, 0.5), (1300, 0.35 * 0.5), (1599, (1 - 1599 / 2000) / 600)],
)
def test_rates_warm_up_decay_and_cool_down(step: int, fraction: float) -> None:
    assert Recipe().rate_fraction(step) == pytest.approx(fraction)
