"""The ceiling by hand."""

from __future__ import annotations

import pytest

from artifacts.variant import Footprint
from laws.hardware import measure_cpu
from laws.roofline import Hardware, decode_ceiling

MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=10_000, source="stated")
MODEL = Footprint(params_total=1, params_blocks=1, weights_bytes=400, kv_bytes_per_token=2, flops_per_token=200)


@pytest.mark.parametrize(
    ("batch", "context_tokens", "step_s", "bound_by"),
    [
        (1, 0, 0.4, "memory"),  # 400 bytes at 1000 bytes/s
        (1, 50, 0.5, "memory"),  # the cache adds 1 * 50 * 2 bytes
        (100, 0, 2.0, "compute"),  # 100 * 200 FLOP at 10,000 FLOP/s
    ],
)
def test_step_time(batch: int, context_tokens: float, step_s: float, bound_by: str) -> None:
    ceiling = decode_ceiling(MODEL, MACHINE, batch, context_tokens)
    assert ceiling.step_s == pytest.approx(step_s)
    assert ceiling.bound_by == bound_by
    assert ceiling.tokens_per_s == pytest.approx(batch / step_s)


def test_published_decode_step_of_an_8b_model_on_an_h200() -> None:
    """8.03 G bf16 parameters, 131,072 KV bytes a token, context 1024, 4.8 TB/s: 4.24 ms at batch 32."""
    weights = Footprint(
        params_total=8_030_000_000,
        params_blocks=1,
        weights_bytes=16_060_000_000,
        kv_bytes_per_token=131_072,
        flops_per_token=16_060_000_000,
    )
    h200 = Hardware(name="H200", memory_bytes_per_s=4.8e12, flops_per_s=989e12, source="stated")
    assert decode_ceiling(weights, h200, 32, 1024).step_s == pytest.approx(4.24e-3, rel=0.01)


def test_measured_machine_is_plausible() -> None:
    """Any machine that runs this reads between 0.1 GB/s and 10 TB/s and computes between 0.1 G and 100 TFLOP/s."""
    measured = measure_cpu(8 << 20)
    assert 1e8 < measured.memory_bytes_per_s < 1e13
    assert 1e8 < measured.flops_per_s < 1e14
    assert "8.0 MiB" in measured.source
