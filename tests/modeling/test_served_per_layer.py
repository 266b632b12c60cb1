"""Per-layer shapes in real vLLM: what it serves is what Transformers computes, and removed KV heads are room.

One engine per base family. Together they cover tied and untied embeddings, biases, norms on queries and keys, layer 0
without attention, layers without an FFN, and four sums of KV heads in the same gigabyte.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from compressors.footprint import footprint_of_folder
from tests.compressors.tiny_models import save_tokenizer
from tests.engine_process import require_cache_room, require_greedy
from tests.modeling.per_layer_models import ALL_FFN, ALL_KV, CASES, EVERYTHING, MIXED, Kept, cut, dense
from tests.vllm_host import VllmHost

NEW_TOKENS = 64
PROMPTS = ([1, 40, 77, 5], [1, 90, 3, 3, 61, 12, 8], [33])
SERVED = {
    "llama-tied": MIXED,
    "mistral": (EVERYTHING, Kept((0, 1), ALL_FFN[:16]), Kept((3,), ()), Kept(ALL_KV, ALL_FFN[4:24])),
    "qwen2": (Kept((1, 2, 3), ()), Kept((), ALL_FFN[:32]), Kept((0,), ALL_FFN)),
    "qwen3-tied": (Kept((), ALL_FFN), Kept(ALL_KV, ALL_FFN[10:]), Kept((0, 2), ()), Kept((), ALL_FFN[::2])),
}


@pytest.mark.engine
@pytest.mark.parametrize("case", SERVED)
def test_vllm_serves_what_transformers_computes(case: str, tmp_path: Path, vllm_host: VllmHost) -> None:
    kept = SERVED[case]
    model = cut(dense(case, len(kept)), kept, CASES[case][0])
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    footprint = footprint_of_folder(tmp_path, tied=model.config.tie_word_embeddings)
    assert footprint.kv_bytes_per_token == sum(2 * len(layer.kv) * 32 * 4 for layer in kept)
    served = vllm_host.greedy(tmp_path, PROMPTS, NEW_TOKENS, max_model_len=128)
    require_cache_room((served.capacity_tokens, served.block_tokens), footprint.kv_bytes_per_token)
    for prompt, tokens, logprobs in zip(PROMPTS, served.tokens, served.logprobs, strict=True):
        require_greedy((tokens, logprobs), model, prompt)
