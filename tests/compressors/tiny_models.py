"""Tiny random models of every family (head width 32, grouped queries), a tokenizer of words, and texts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 96
_SHAPES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}
_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama-biased": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
}
FAMILIES = tuple(_FAMILIES)


def build_model(family: str = "llama", **changes: Any) -> Any:
    """A seeded random model in evaluation mode, biases and norms random as well; `changes` go into its config."""
    config_class, model_class, extra = _FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**{**_SHAPES, **extra, **changes})).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def logits_of(model: Any, seed: int = 0) -> torch.Tensor:
    """[2, 16, vocabulary] on fixed random ids."""
    ids = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def random_windows(count: int = 8, tokens: int = 16) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, tokens), generator=torch.Generator().manual_seed(5))


def word(index: int) -> str:
    return f"w{index}"


def save_tokenizer(folder: Path, *, bos: bool = True) -> None:
    """One token per word; ids 0 to 2 are unknown, begin and end."""
    names = ["<unk>", "<s>", "</s>", *(word(i) for i in range(3, VOCABULARY))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>"} if bos else {}
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>", **special).save_pretrained(
        folder
    )


def save_checkpoint(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A complete model folder with tokenizer and generation configuration."""
    build_model(family, **changes).to(dtype).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def random_text(documents: int, words: int, seed: int = 0) -> str:
    """Documents of `words` words each, separated by the separator line."""
    draw = Random(seed)
    pieces = (" ".join(word(draw.randrange(3, VOCABULARY)) for _ in range(words)) for _ in range(documents))
    return "\n<|endoftext|>\n".join(pieces)
