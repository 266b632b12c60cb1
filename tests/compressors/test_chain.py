"""A chain is its steps one after the other, tells itself against the first model, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import logits_of, save_checkpoint
from transformers import AutoModelForCausalLM

from artifacts.errors import CheckpointError, ConfigError
from artifacts.variant import LayerShape, VariantManifest, load_variant, verify_checksums
from compressors import chain
from compressors.chain import compress_chain
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.source import open_source
from compressors.verify import verify_variant


@pytest.fixture
def depth(tmp_path: Path, text_file: Path) -> CompressionRequest:
    """One of four layers goes."""
    return CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense", num_hidden_layers=4)),
        out=tmp_path / "out" / "variant",
        method="greedy_kl",
        ratio=0.25,
        calibration=str(text_file),
        calibration_tokens=128,
        window_tokens=16,
        seed=3,
    )


@pytest.fixture
def width(depth: CompressionRequest) -> CompressionRequest:
    return replace(depth, method="wanda_sp", ratio=0.5, units=("ffn",))


def made(steps: Sequence[CompressionRequest]) -> VariantManifest:
    return compress_chain(steps, verify=verify_variant)


def by_hand(steps: Sequence[CompressionRequest], folder: Path) -> list[VariantManifest]:
    manifests, model = [], steps[0].model
    for number, step in enumerate(steps):
        manifests.append(compress(replace(step, model=model, out=folder / f"{number}"), verify=verify_variant))
        model = str(folder / f"{number}")
    return manifests


def test_the_files_are_those_of_the_steps_by_hand(
    depth: CompressionRequest, width: CompressionRequest, tmp_path: Path
) -> None:
    manifest, hand = made([depth, width]), by_hand([depth, width], tmp_path / "hand")
    assert manifest.checksums == hand[1].checksums
    assert load_variant(depth.out) == manifest
    verify_checksums(depth.out, manifest)
    assert [path.name for path in depth.out.parent.iterdir()] == ["variant"], "no step and no workspace is left"
    model = AutoModelForCausalLM.from_pretrained(depth.out, dtype=torch.float32)
    assert model.config.num_hidden_layers == 3 and model.config.intermediate_size == 24
    assert bool(torch.isfinite(logits_of(model)).all())


def test_the_manifest_speaks_of_the_first_model(
    depth: CompressionRequest, width: CompressionRequest, tmp_path: Path
) -> None:
    manifest, hand = made([depth, width]), by_hand([depth, width], tmp_path / "hand")
    dense = open_source(depth.model)
    assert manifest.name == "variant" and manifest.base == hand[0].base
    assert manifest.base.footprint == dense.footprint and manifest.base.sha256 == dense.sha256
    kept = 1 - manifest.ratios.params_blocks
    assert kept == pytest.approx((1 - hand[0].ratios.params_blocks) * (1 - hand[1].ratios.params_blocks))
    assert manifest.ratios.kv_bytes_per_token == 0.25 and manifest.ratios.nominal == 0.5
    (first,) = manifest.earlier
    assert (first.method, first.calibration, first.nominal) == (hand[0].method, hand[0].calibration, 0.25)
    assert manifest.method.name == "wanda_sp" and first.method.name == "greedy_kl"
    assert list(manifest.cost.stages_s)[:2] == ["1 calibrate", "1 open"]
    verify_variant(depth.out)


def test_layers_are_counted_in_the_first_model(depth: CompressionRequest, width: CompressionRequest) -> None:
    """Depth twice: the second step's numbers are those of what the first left."""
    manifest = made([depth, replace(depth, ratio=0.34), width])
    assert [layer.index for layer in manifest.layers] == [0, 1, 2, 3]
    assert sum(layer.present for layer in manifest.layers) == 2
    whole = LayerShape(index=0, query_heads=8, kv_heads=4, ffn_width=24)
    for layer in manifest.layers:
        gone = LayerShape(index=layer.index, present=False, query_heads=0, kv_heads=0, ffn_width=0)
        assert layer == (whole.model_copy(update={"index": layer.index}) if layer.present else gone)
    assert [step.method.name for step in manifest.earlier] == ["greedy_kl", "greedy_kl"]


def test_chains_of_a_variant_that_was_made_by_one(depth: CompressionRequest, width: CompressionRequest) -> None:
    """A chain may start from another chain's result; its base is that variant."""
    first = made([depth, width])
    second = made([replace(width, model=str(depth.out), out=depth.out.parent / "b", ratio=r) for r in (0.25, 0.1)])
    assert second.base.footprint == first.footprint and len(second.layers) == 3


def test_one_step_is_a_plain_compression(width: CompressionRequest, tmp_path: Path) -> None:
    manifest = made([width])
    assert manifest.earlier == ()
    assert manifest.checksums == compress(replace(width, out=tmp_path / "b"), verify=verify_variant).checksums


def test_repair_is_asked_of_the_steps_that_can(depth: CompressionRequest, width: CompressionRequest) -> None:
    manifest = made([replace(depth, repair="ridge"), replace(width, repair="ridge")])
    assert (manifest.method.repair, manifest.earlier[0].method.repair) == ("ridge", "none")


def test_hidden_and_width(width: CompressionRequest) -> None:
    hidden = replace(width, method="hidden_slice", units=None, ratio=0.25)
    manifest = made([width, hidden])
    assert manifest.hidden_size == 48 and manifest.layers[0].ffn_width == 24


@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_chain_goes_on_where_it_was(
    after: int, depth: CompressionRequest, width: CompressionRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C in front of step 2 or behind it; the finished steps are not made again and the bytes are the same."""
    steps = [depth, width, replace(width, ratio=0.25)]
    whole = made([replace(step, out=tmp_path / "whole") for step in steps])
    asked: list[str] = []
    run = chain.compress

    def counted(request: CompressionRequest, *rest: Any) -> VariantManifest:
        asked.append(f"{request.method}:{request.ratio}")
        if len(asked) == after + 1:
            raise KeyboardInterrupt
        return run(request, *rest)

    monkeypatch.setattr(chain, "compress", counted)
    with pytest.raises(KeyboardInterrupt):
        made(steps)
    assert not depth.out.exists() and len(list(depth.out.parent.iterdir())) == 1
    resumed = made(steps)
    expected = ["greedy_kl:0.25", "wanda_sp:0.5", "wanda_sp:0.25"]
    assert asked == [*expected[: after + 1], *expected[after:]]
    assert resumed.checksums == whole.checksums and resumed.earlier == whole.earlier
    assert [path.name for path in depth.out.parent.iterdir()] == ["variant"]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"ratio": 0.0}, "A step of ratio 0 does nothing"),
        ({"method": "flip"}, "method 'flip' is unknown"),
        ({"units": ("layers",)}, "Method wanda_sp cannot prune layers"),
        ({"calibration": None}, "needs calibration text"),
    ],
)
def test_a_wrong_later_step_is_refused_before_the_first_runs(
    changes: dict[str, Any],
    fragment: str,
    depth: CompressionRequest,
    width: CompressionRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain, "compress", lambda *_: pytest.fail("a step ran"))
    with pytest.raises(ConfigError) as caught:
        made([depth, replace(width, **changes)])
    assert fragment in str(caught.value) and not depth.out.parent.exists()


def test_an_error_in_a_later_step_leaves_nothing(depth: CompressionRequest, width: CompressionRequest) -> None:
    def strict(folder: Path) -> None:
        if load_variant(folder).method.name == "wanda_sp":
            raise CheckpointError("It is not what it says.")

    with pytest.raises(CheckpointError):
        compress_chain([depth, width], verify=strict)
    assert list(depth.out.parent.iterdir()) == []


def test_an_output_that_exists_is_kept(depth: CompressionRequest, width: CompressionRequest) -> None:
    depth.out.mkdir(parents=True)
    (depth.out / "precious").write_text("data")
    with pytest.raises(ConfigError, match="already exists"):
        made([depth, width])
    assert (depth.out / "precious").read_text() == "data"


def test_order_matters(depth: CompressionRequest, width: CompressionRequest) -> None:
    """Width first: the layer goes from a model that was already repaired, so the weights differ."""
    made([depth, width])
    other = [replace(width, out=depth.out.parent / "b"), replace(depth, out=depth.out.parent / "b")]
    made(other)
    one, two = (load_file(depth.out.parent / name / "model.safetensors") for name in ("variant", "b"))
    assert one.keys() == two.keys() and any(not torch.equal(one[name], two[name]) for name in one)
