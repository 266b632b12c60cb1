"""Trains the demo model: a small Llama on the text that every CPython carries. `python -m modeling.train_demo`.

Deterministic for a given CPython, torch build and thread count. Progress is saved every few minutes, so a
killed training goes on where it was. The last step writes the checkpoint, the tokenizer, `training.json`
(loss curve, baselines, corpus hashes) and the model card drawn from it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modeling.demo_card import render_card
from modeling.ngram import bigram_loss_nats, unigram_loss_nats
from modeling.python_corpus import Corpus, load_corpus

BOS, EOS = "<s>", "</s>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}# {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the result, besides the corpus and the versions.

    The learning rates warm up, fall linearly towards zero at `decay_horizon_steps`, and from `cooldown_start` on are
    also scaled down linearly to zero at `steps`: most of the steps at a high rate, then a proper annealing.
    """

    vocabulary: int = 2048
    hidden: int = 192
    ffn: int = 768
    layers: int = 8
    query_heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    context_tokens: int = 1024
    window_tokens: int = 512
    batch_windows: int = 8
    steps: int = 1600
    warmup_steps: int = 100
    decay_horizon_steps: int = 2000
    cooldown_start: int = 1000
    adamw_lr: float = 3e-3
    muon_lr: float = 2e-2
    weight_decay: float = 0.05
    seed: int = 0
    threads: int = 1

    def rate_fraction(self, step: int) -> float:
        """The share of the peak learning rates that step number `step` (from 0) uses."""
        warm = min((step + 1) / self.warmup_steps, 1 - step / self.decay_horizon_steps)
        return warm * min(1.0, (self.steps - step) / (self.steps - self.cooldown_start))


@dataclass(frozen=True, slots=True)
class TokenSplits:
    """Token ids of the three splits, documents joined by a BOS, and the hashes of their texts."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    sha256: dict[str, str]
    held_out_characters: int


def train_tokenizer(corpus: Corpus, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, runs of indentation become single tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(corpus.texts, trainer)
    bos = core.token_to_id(BOS)
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.query_heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=recipe.context_tokens,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    # The residual writers start small so that depth does not inflate the residual stream (GPT-2's scheme).
    with torch.no_grad():
        for layer in model.model.layers:
            for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writer.weight.mul_(1 / math.sqrt(2 * recipe.layers))
    return model


class Trainer:
    """Muon on the blocks' matrices, AdamW on the rest, rates as the recipe says."""

    def __init__(self, recipe: Recipe, train_tokens: NDArray[np.int64]) -> None:
        self.recipe = recipe
        self.tokens = torch.from_numpy(train_tokens)
        self.model = build_model(recipe)
        matrices = [p for n, p in self.model.named_parameters() if "layers" in n and p.ndim == 2]
        others = [p for n, p in self.model.named_parameters() if not ("layers" in n and p.ndim == 2)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, momentum=0.95),
            torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        peaks = (recipe.muon_lr, recipe.adamw_lr)
        self.peaks = dict(zip(map(id, self.optimizers), peaks, strict=True))
        self.step = 0
        self.curve: list[tuple[int, float]] = []

    def windows(self) -> torch.Tensor:
        """[batch, window + 1] token ids; a function of the seed and the step alone, so resuming is exact."""
        draw = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        size = self.recipe.window_tokens + 1
        starts = torch.randint(len(self.tokens) - size, (self.recipe.batch_windows,), generator=draw)
        return torch.stack([self.tokens[s : s + size] for s in starts.tolist()])

    def train_step(self) -> float:
        fraction = self.recipe.rate_fraction(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.peaks[id(optimizer)] * fraction
        loss = window_loss(self.model, self.windows())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{path} was made by another recipe; remove it to start again.")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.curve = state["step"], [tuple(point) for point in state["curve"]]


def window_loss(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.inference_mode()
def held_out_loss_nats(model: LlamaForCausalLM, tokens: NDArray[np.int64], window: int) -> float:
    """Mean nats per token over non-overlapping windows of `window` tokens."""
    size = window + 1
    rows = torch.from_numpy(tokens[: len(tokens) // size * size]).view(-1, size)
    return float(np.mean([float(window_loss(model, batch)) for batch in rows.split(1)]))


def tokenise(tokenizer: PreTrainedTokenizerFast) -> TokenSplits:
    def join(corpus: Corpus) -> NDArray[np.int64]:
        return np.concatenate([np.asarray(tokenizer(t)["input_ids"], np.int64) for t in corpus.texts])

    train, held_out = load_corpus("train"), load_corpus("held_out")
    hashes: dict[str, str] = {c.split: c.sha256 for c in (train, held_out)}
    return TokenSplits(join(train), join(held_out), hashes, held_out.characters)


def run_training(trainer: Trainer, state_path: Path, save_every_s: float = 120.0) -> float:
    """Trains to the last step; returns the seconds this process spent."""
    if state_path.exists():
        trainer.load(state_path)
    started = saved = time.monotonic()
    first_step = trainer.step
    while trainer.step < trainer.recipe.steps:
        loss = trainer.train_step()
        now = time.monotonic()
        if trainer.step % 20 == 0:
            trainer.curve.append((trainer.step, round(loss, 4)))
            left_s = (now - started) / (trainer.step - first_step) * (trainer.recipe.steps - trainer.step)
            sys.stderr.write(f"step={trainer.step}/{trainer.recipe.steps} loss={loss:.4f} left={left_s / 60:.0f}min\n")
        if now - saved > save_every_s:
            trainer.save(state_path)
            saved = now
    trainer.save(state_path)
    return time.monotonic() - started


def describe(trainer: Trainer, splits: TokenSplits, seconds: float) -> dict[str, object]:
    recipe = trainer.recipe
    model = trainer.model.to(torch.bfloat16).float()  # what is saved is bfloat16: evaluate exactly that
    loss = held_out_loss_nats(model, splits.held_out, recipe.window_tokens)
    return {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_tokens": len(splits.train),
        "seen_tokens": recipe.steps * recipe.batch_windows * recipe.window_tokens,
        "held_out_tokens": len(splits.held_out),
        "held_out_characters": splits.held_out_characters,
        "held_out_loss_nats": loss,
        "unigram_loss_nats": unigram_loss_nats(splits.train, splits.held_out, recipe.vocabulary),
        "bigram_loss_nats": bigram_loss_nats(splits.train, splits.held_out, recipe.vocabulary),
        "corpus_sha256": splits.sha256,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "last_process_s": round(seconds, 1),
        "curve": trainer.curve,
    }


def export(trainer: Trainer, tokenizer: PreTrainedTokenizerFast, facts: dict[str, object], out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    (partial / "README.md").write_text(render_card(facts))
    for file in partial.iterdir():
        file.replace(out / file.name)
    partial.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("prunebench/demo_model"))
    parser.add_argument("--state", type=Path, default=Path("training_state.pt"), help="progress, for resuming")
    parser.add_argument("--threads", type=int, default=Recipe().threads)
    args = parser.parse_args()
    recipe = Recipe(threads=args.threads)
    torch.set_num_threads(recipe.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = train_tokenizer(load_corpus("train"), recipe.vocabulary)
    splits = tokenise(tokenizer)
    trainer = Trainer(recipe, splits.train)
    seconds = run_training(trainer, args.state)
    facts = describe(trainer, splits, seconds)
    args.out.mkdir(parents=True, exist_ok=True)
    export(trainer, tokenizer, facts, args.out)
    sys.stdout.write(json.dumps({k: v for k, v in facts.items() if k != "curve"}) + "\n")


if __name__ == "__main__":
    main()
