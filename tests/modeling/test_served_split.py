"""Per-layer shapes over two devices: each holds half of every layer's heads and channels, and the answer is the same.

On a CPU a device is a process on one core. A KV head that is alone in its layer is held by both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compressors.tiny_models import save_tokenizer
from tests.engine_process import cache_capacity_tokens, engine, require_cache_room, require_same_greedy
from tests.modeling.per_layer_models import ALL_FFN, ALL_KV, CASES, Kept, cut, dense

NEW_TOKENS = 64
PROMPTS = ([1, 40, 77, 5], [33])
KEPT = (Kept((), ALL_FFN[::2]), Kept((0, 2), ()), Kept((1,), ALL_FFN[:16]), Kept(ALL_KV, ALL_FFN))
HELD_HEADS = 0 + 1 + 1 + 2


@pytest.mark.engine
def test_two_devices_serve_what_one_process_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two processes need two cores")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    model = cut(dense("llama-tied", len(KEPT)), KEPT, CASES["llama-tied"][0])
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with engine(tmp_path, "--max-model-len", "128", "--tensor-parallel-size", "2") as sock:
        require_cache_room(cache_capacity_tokens(sock), HELD_HEADS * 2 * 32 * 4)
        for prompt in PROMPTS:
            require_same_greedy(sock, tmp_path, model, prompt, NEW_TOKENS)
