"""Per-layer shapes on a GPU, with compiled CUDA graphs and FlashAttention: the log-probabilities are Transformers'.

In bfloat16 two right programs differ in the last digits. How much is right is measured: stock vLLM against Transformers
on a stock model of the same size. The plug-in may err by twice that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling.registration import register_with_transformers
from tests.compressors.tiny_models import save_tokenizer
from tests.engine_process import LOG_NAME, PLAIN, engine, served_greedy
from tests.modeling.per_layer_models import ALL_FFN, ALL_KV, CASES, EVERYTHING, Kept, cut, dense

NEW_TOKENS = 64
PROMPTS = ([1, 40, 77, 5], [1, 90, 3, 3, 61, 12, 8], [33])
CAPTURED = ("--dtype", "bfloat16", "--attention-backend", "FLASH_ATTN", "--kv-cache-memory-bytes", str(1 << 30))
SHAPES = {
    "llama-tied": (Kept((0, 1), ALL_FFN[:16]), EVERYTHING, Kept(ALL_KV, ALL_FFN[4:36]), Kept((3,), ALL_FFN)),
    "qwen2": (Kept((1, 2, 3), ALL_FFN[:8]), Kept((0,), ALL_FFN), EVERYTHING, Kept(ALL_KV, ALL_FFN[:32])),
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: plug-in under CUDA graphs")


def errors(folder: Path, model: Any, sock: Path) -> list[float]:
    """Of each served token: how far its log-probability is from Transformers', in float32 on the same weights."""
    off: list[float] = []
    for prompt in PROMPTS:
        tokens, served = served_greedy(sock, folder, prompt, NEW_TOKENS)
        ids = torch.tensor([[*prompt, *tokens]], device=model.device)
        with torch.inference_mode():
            rows = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(dim=-1)
        expected = rows[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
        off += np.abs(expected.cpu().numpy() - np.array(served)).tolist()
    return off


def save(model: Any, folder: Path) -> Any:
    """In the type in which it is served; what comes back computes in float32 with those very weights."""
    model = model.bfloat16()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model.float()


@pytest.mark.gpu
@pytest.mark.engine
@needs_gpu
@pytest.mark.parametrize("case", SHAPES)
def test_the_plug_in_errs_no_more_than_stock_vllm(case: str, tmp_path: Path) -> None:
    register_with_transformers()
    whole = dense(case, len(SHAPES[case]))
    models = {"stock": whole, "per-layer": cut(whole, SHAPES[case], CASES[case][0])}
    found = {}
    for name, model in models.items():
        kept = save(model, tmp_path / name).to("cuda")
        with engine(tmp_path / name, way=CAPTURED) as sock:
            found[name] = errors(tmp_path / name, kept, sock)
            log = (sock.parent / LOG_NAME).read_text(errors="replace")
        assert "Graph capturing finished" in log and "FLASH_ATTN" in log.upper()
    stock, ours = (np.array(found[name]) for name in ("stock", "per-layer"))
    assert len(ours) == len(PROMPTS) * NEW_TOKENS
    assert float(ours.mean()) <= 2 * float(stock.mean()) + 1e-3
    assert float(ours.max()) <= 2 * float(stock.max()) + 1e-2


def test_the_comparison_notices_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine: tokens and log-probabilities of the model itself are exact, another model's are not."""
    from tests.engine_process import reference_greedy

    right, wrong = (save(dense("qwen2", count), tmp_path / str(count)) for count in (3, 2))
    monkeypatch.setattr(f"{__name__}.served_greedy", lambda sock, folder, *asked: reference_greedy(right, *asked))
    assert max(errors(tmp_path, right, tmp_path)) < 1e-4
    assert max(errors(tmp_path, wrong, tmp_path)) > 1e-2
    assert "float32" in PLAIN and "bfloat16" in CAPTURED
