"""A table measured on real vLLM, and what compress makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.latency import LatencyTable
from artifacts.progress import silent
from artifacts.variant import VariantManifest
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from prunebench.timing import LatencyRequest, measure_latency
from tests.compressors.tiny_models import save_checkpoint

LAYERS, GROUPS, WIDTH, NARROW = 2, 4, 8192, 2048


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_compress_follows_what_vllm_took(tmp_path: Path) -> None:
    """FFNs so wide that they outweigh a busy machine's noise: a fifth of a step goes, and it goes there.

    In the same table with attention slow and FFNs free, it goes from the KV groups.
    """
    shape = {"hidden_size": 256, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS}
    model = save_checkpoint(tmp_path / "dense", **shape)
    out = tmp_path / "latency.json"
    request = LatencyRequest(
        model=str(model),
        out=out,
        batch=2,
        context_tokens=48,
        repeats=3,
        steps=24,
        checks=0,
        ffn_widths=(NARROW,),
        kv_groups=(GROUPS,),
    )
    table = measure_latency(request, silent)
    assert LatencyTable.load(out) == table and not list(tmp_path.glob("*.partial*"))
    assert [(entry.unit, entry.count) for entry in table.entries] == [("kv", 4), ("ffn", NARROW), ("ffn", WIDTH)]
    assert [len(timing.steps_s) for timing in table.measured] == [3] * 5
    assert table.engine.startswith("vllm")
    assert table.seconds("ffn", NARROW) < table.seconds("ffn", WIDTH) and table.seconds("ffn", WIDTH) > 1e-4

    measured = compressed(model, out, tmp_path / "measured")
    assert {layer.kv_heads for layer in measured.layers} == {GROUPS}
    assert {layer.ffn_width < WIDTH for layer in measured.layers} == {True}

    slow = {"kv": 1.0, "ffn": 0.0}
    steep = [entry.model_copy(update={"seconds": slow[entry.unit], "unpooled_s": None}) for entry in table.entries]
    steep.append(steep[0].model_copy(update={"count": 1, "seconds": 0.25}))
    swapped = tmp_path / "swapped.json"
    table.model_copy(update={"entries": tuple(steep)}).save(swapped)
    narrowed = compressed(model, swapped, tmp_path / "swapped")
    assert {layer.kv_heads < GROUPS for layer in narrowed.layers} == {True}
    assert {layer.ffn_width for layer in narrowed.layers} == {WIDTH}


def compressed(model: Path, table: Path, out: Path) -> VariantManifest:
    """A fifth of a decode step less, from either kind of half."""
    request = CompressionRequest(
        model=str(model),
        out=out,
        method="magnitude",
        ratio=0.2,
        units=("ffn", "kv"),
        allocation="uniform",
        budget="latency",
        latency_table=table,
    )
    return compress(request, verify=lambda folder: None)
