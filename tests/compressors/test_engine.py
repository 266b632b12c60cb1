"""The re-labelled exports in vLLM itself: same greedy tokens and log-probabilities as unpatched Transformers.

One engine for each class that stands in for another, and for each kind of cut; loading either cut into either class
is tested without an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from artifacts.variant import Unit
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant
from tests.engine_process import require_greedy
from tests.vllm_host import VllmHost

NEW_TOKENS = 24
PROMPTS = ([1, 403, 407, 261, 378], [1, 331, 425, 300, 45, 7], [1, 264])


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
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    served = vllm_host.greedy(out, PROMPTS, NEW_TOKENS)
    for prompt, tokens, logprobs in zip(PROMPTS, served.tokens, served.logprobs, strict=True):
        require_greedy((tokens, logprobs), model, prompt)
