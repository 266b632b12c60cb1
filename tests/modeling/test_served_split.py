"""Per-layer shapes over two devices: each holds half of every layer's heads and channels, and the answer is the same.

On a CPU a device is a process on one core. A KV head that is alone in its layer is held by both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compressors.tiny_models import save_tokenizer
from tests.engine_process import require_cache_room, require_greedy
from tests.modeling.per_layer_models import ALL_FFN, ALL_KV, CASES, Kept, cut, dense
from tests.vllm_host import VllmHost

NEW_TOKENS = 64
PROMPTS = ([1, 40, 77, 5], [33])
KEPT = (Kept((), ALL_FFN[::2]), Kept((0, 2), ()), Kept((1,), ALL_FFN[:16]), Kept(ALL_KV, ALL_FFN))
HELD_HEADS = 0 + 1 + 1 + 2


@pytest.mark.engine
def test_two_devices_serve_what_one_process_computes(vllm_host: VllmHost, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two processes need two cores")
    model = cut(dense("llama-tied", len(KEPT)), KEPT, CASES["llama-tied"][0])
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    served = vllm_host.greedy(tmp_path, PROMPTS, NEW_TOKENS, max_model_len=128, cores=tuple(cores[:2]))
    require_cache_room((served.capacity_tokens, served.block_tokens), HELD_HEADS * 2 * 32 * 4)
    for prompt, tokens, logprobs in zip(PROMPTS, served.tokens, served.logprobs, strict=True):
        require_greedy((tokens, logprobs), model, prompt)
