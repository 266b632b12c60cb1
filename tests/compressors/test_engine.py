"""Variants in vLLM itself: same greedy tokens and log-probabilities as in Transformers.

One engine for each class that stands in for another, and for each kind of cut, in unpatched Transformers; loading
either cut into either class is tested without an engine. Then one for each method that leaves more behind than
narrower halves of one width: blocks cut together, layers of learnt widths, fewer layers, zeros among the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_checkpoint
from transformers import AutoModelForCausalLM

from artifacts.variant import Unit
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant
from modeling.registration import register_with_transformers
from tests.engine_process import require_greedy
from tests.vllm_host import VllmHost

NEW_TOKENS = 24
METHODS: dict[str, dict[str, Any]] = {
    "sparsellm_structured": {"units": ("kv", "ffn"), "together": 2},
    "policy_gradient": {"units": ("kv", "ffn"), "allocation": "learned", "settings": ("steps=8", "samples=4")},
    "layer_chop": {"units": ("layers",)},
    "sparsellm": {},
}
PROMPTS = ([1, 403, 407, 261, 378], [1, 331, 425, 300, 45, 7], [1, 264])
WORDS = ([1, 40, 77, 5], [1, 90, 3, 3, 61, 12, 8], [33])


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "method", "unit", "architecture"),
    [
        ("stories260K-hd32", "wanda_sp", "kv", "MistralForCausalLM"),
        ("stories260K-hd32-qwen2", "hidden_slice", "hidden", "SeedOssForCausalLM"),
    ],
)
def test_vllm_computes_what_transformers_computes(
    stories: Callable[[str], Path],
    tmp_path: Path,
    vllm_host: VllmHost,
    name: str,
    method: str,
    unit: Unit,
    architecture: str,
) -> None:
    """One of four KV groups removed from every layer, or 16 of 64 hidden channels; repaired and served."""
    out = tmp_path / "variant"
    request = CompressionRequest(
        model=str(stories(f"models/{name}")),
        out=out,
        method=method,
        ratio=0.25,
        units=(unit,),
        calibration=str(stories("corpora/tinystories/dev.txt")),
        calibration_tokens=4096,
    )
    assert compress(request, verify=verify_variant).architecture == architecture
    require_same(out, vllm_host, PROMPTS)


@pytest.mark.engine
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_leaves_is_served_as_it_is(
    method: str, tmp_path: Path, text_file: Path, vllm_host: VllmHost
) -> None:
    register_with_transformers()
    request = CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense")),
        out=tmp_path / "variant",
        method=method,
        ratio=0.4,
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
        **METHODS[method],
    )
    architecture = compress(request, verify=verify_variant).architecture
    assert architecture == ("PrunebenchForCausalLM" if method == "policy_gradient" else "LlamaForCausalLM")
    require_same(request.out, vllm_host, WORDS)


def require_same(variant: Path, host: VllmHost, prompts: tuple[list[int], ...]) -> None:
    model = AutoModelForCausalLM.from_pretrained(variant, dtype=torch.float32).eval()
    served = host.greedy(variant, prompts, NEW_TOKENS, max_model_len=128)
    for prompt, tokens, logprobs in zip(prompts, served.tokens, served.logprobs, strict=True):
        require_greedy((tokens, logprobs), model, prompt)
