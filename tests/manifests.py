"""A variant's manifest for tests that only read one: they say what they look at, the rest is small and consistent."""

from __future__ import annotations

from typing import Any

from artifacts.variant import (
    BaseModelRef,
    CompressionCost,
    Footprint,
    LayerShape,
    MethodRef,
    Ratios,
    VariantManifest,
)

DENSE = Footprint(params_total=100, params_blocks=80, weights_bytes=400, kv_bytes_per_token=4, flops_per_token=200)
SMALL = Footprint(params_total=60, params_blocks=40, weights_bytes=200, kv_bytes_per_token=4, flops_per_token=120)


def small_manifest(footprint: Footprint = SMALL, **fields: Any) -> VariantManifest:
    """Of a variant of DENSE with half of its FFN channels removed; `fields` replace values."""
    usual = {
        "name": "small",
        "base": BaseModelRef(name="base", sha256="ab" * 32, architecture="LlamaForCausalLM", footprint=DENSE),
        "method": MethodRef(name="random", config={}, units=("ffn",), repair="none", seed=0, multiple_of=1),
        "calibration": None,
        "layers": (LayerShape(index=0, query_heads=4, kv_heads=2, ffn_width=16),),
        "footprint": footprint,
        "ratios": Ratios.between(0.5, DENSE, footprint),
        "expressibility": "stock",
        "architecture": "LlamaForCausalLM",
        "cost": CompressionCost(wall_s=1, peak_memory_bytes=1, stages_s={}),
        "versions": {},
        "checksums": {},
    }
    return VariantManifest(**{**usual, **fields})
