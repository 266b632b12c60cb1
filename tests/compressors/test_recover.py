"""From a variant directory to a new, verified one: what is written, what stays, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recovery_cases import make_variant, pruned, recovered, request_for
from safetensors.torch import load_file
from tiny_models import FAMILIES, random_text, save_checkpoint

from artifacts.errors import CompressionError, ConfigError
from artifacts.files import sha256_of_file, sha256_of_folder
from artifacts.recovery import CURVE_NAME, LossCurve
from artifacts.variant import MANIFEST_NAME, QualityRecord, load_variant, record_quality, verify_checksums
from compressors.quality import EvaluationRequest, evaluate
from compressors.recovery.methods import METHODS
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.recovery.training_text import split_documents
from compressors.text import read_corpus


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_same_shapes_other_weights(method: str, family: str, tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path, family)
    before = contents(variant)
    manifest = recovered(request_for(variant, text_file, method))
    assert contents(variant) == before, "the given variant is only read"
    parent, after = load_variant(variant), contents(tmp_path / "recovered")
    old, new = (load_file(folder / "model.safetensors") for folder in (variant, tmp_path / "recovered"))
    assert {name: (t.shape, t.dtype) for name, t in new.items()} == {
        name: (t.shape, t.dtype) for name, t in old.items()
    }
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert changed and (method == "block_local") == all(".mlp." in name for name in changed)
    assert after["config.json"] == before["config.json"] and after["tokenizer.json"] == before["tokenizer.json"]
    kept = {"base", "method", "calibration", "layers", "footprint", "ratios", "architecture", "cost"}
    assert manifest.model_dump(include=kept) == parent.model_dump(include=kept)
    assert manifest.name == "recovered" and manifest.fingerprint != parent.fingerprint
    assert set(after) == {MANIFEST_NAME, *manifest.checksums} and CURVE_NAME in manifest.checksums
    verify_checksums(tmp_path / "recovered", manifest)


@pytest.mark.parametrize("family", FAMILIES)
def test_relabelled_variants_are_recovered_too(family: str, tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path, family, units=("kv", "ffn"))
    manifest = recovered(request_for(variant, text_file, "block_local"))
    assert manifest.architecture == load_variant(variant).architecture
    assert manifest.recovery is not None and manifest.recovery.stages == 6


def test_depth_pruned_variants_have_a_gap_to_bridge(tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(
        tmp_path,
        method="block_influence",
        ratio=0.3,
        units=("layers",),
        calibration=str(text_file),
        calibration_tokens=128,
        window_tokens=16,
    )
    manifest = recovered(request_for(variant, text_file, "block_local"))
    assert manifest.recovery is not None and manifest.recovery.stages == 1
    assert recovered(request_for(variant, text_file, out=tmp_path / "b")).recovery is not None


def test_the_manifest_says_what_was_done(tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path)
    recovery = recovered(request_for(variant, text_file, "lora", seed=3, rank=4, learning_rate=0.02)).recovery
    assert recovery is not None
    assert recovery.config == {"learning_rate": 0.02, "rank": 4, "alpha_per_rank": 2.0}
    assert (recovery.method, recovery.seed, recovery.stages, recovery.steps) == ("lora", 3, 1, 6)
    assert (recovery.tokens, recovery.batch_tokens, recovery.window_tokens) == (192, 32, 16)
    assert (recovery.corpus, recovery.corpus_sha256) == ("stories.txt", sha256_of_file(text_file))
    assert (recovery.held_out_documents, recovery.held_out_tokens) == (1, 40), "every word of 40 is predicted"
    assert recovery.parent == "pruned" and recovery.parent_fingerprint == load_variant(variant).fingerprint
    assert recovery.training_s > 0 and recovery.peak_memory_bytes > 10_000_000 and recovery.earlier is None
    curve = LossCurve.load(tmp_path / "recovered" / CURVE_NAME)
    assert [point.tokens for point in curve.points] == [0, 32, 64, 96, 128, 160, 192]
    assert curve.points[0].held_out_loss_nats == recovery.loss_before_nats
    assert (curve.method, curve.objective) == ("lora", METHODS["lora"].objective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_those_of_the_stored_weights(dtype: torch.dtype, tmp_path: Path, text_file: Path) -> None:
    """Evaluate on the held-out documents what lies in the two folders; bfloat16 shows that rounding is counted."""
    variant = make_variant(tmp_path, dtype=dtype)
    recovery = recovered(request_for(variant, text_file, held_out_tokens=1000)).recovery
    assert recovery is not None
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("\n<|endoftext|>\n".join(split_documents(read_corpus(text_file), 0.05)[1].documents))
    losses = [
        evaluate(EvaluationRequest(model=tmp_path / name, text=held_out, length_tokens=16)).loss_nats
        for name in ("pruned", "recovered")
    ]
    assert [recovery.loss_before_nats, recovery.loss_after_nats] == pytest.approx(losses, abs=1e-6)
    last = LossCurve.load(tmp_path / "recovered" / CURVE_NAME).points[-1].held_out_loss_nats
    assert (last == pytest.approx(recovery.loss_after_nats, abs=1e-7)) == (dtype == torch.float32)


def test_equal_requests_give_equal_bytes_and_seeds_differ(tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path)
    made = [
        recovered(request_for(variant, text_file, "lora", out=tmp_path / str(i), seed=seed))
        for i, seed in enumerate((0, 0, 1))
    ]
    assert made[0].checksums == made[1].checksums
    assert made[0].checksums["model.safetensors"] != made[2].checksums["model.safetensors"]


def test_a_recovered_variant_can_be_recovered_again(tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path)
    first = recovered(request_for(variant, text_file, "block_local"))
    second = recovered(request_for(tmp_path / "recovered", text_file, "distillation", out=tmp_path / "twice"))
    assert second.recovery is not None and second.recovery.earlier == first.recovery
    assert second.base == first.base and second.recovery.parent_fingerprint == first.fingerprint
    assert load_variant(tmp_path / "twice") == second


def test_a_picture_is_part_of_the_variant(tmp_path: Path, text_file: Path) -> None:
    request = request_for(make_variant(tmp_path), text_file, "lora")
    manifest = recover(request, draw=lambda folder: (folder / "picture.html").write_text("drawn") and None)
    assert manifest.checksums["picture.html"] == sha256_of_file(request.out / "picture.html")


def evaluated(variant: Path, text: Path) -> None:
    record = QualityRecord(
        metric="loss_nats",
        value=1.0,
        corpus=text.name,
        corpus_sha256=read_corpus(text).sha256,
        length_tokens=8,
        tokens=9,
    )
    record_quality(variant, (record,))


def test_text_that_quality_was_measured_on_is_refused_unless_allowed(tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path)
    evaluated(variant, text_file)
    request = request_for(variant, text_file, "lora")
    with pytest.raises(ConfigError, match="quality of pruned was measured on"):
        recovered(request)
    manifest = recovered(replace(request, allow_evaluated_text=True))
    assert manifest.quality == (), "values of the parent's weights are not this variant's"
    other = tmp_path / "other.txt"
    other.write_text(random_text(12, 40, seed=9))
    assert recovered(replace(request, out=tmp_path / "b", text=other)).recovery is not None


def other_teacher(request: RecoveryRequest) -> RecoveryRequest:
    folder = save_checkpoint(request.out.parent / "stranger", num_hidden_layers=2)
    return replace(request, teacher=folder)


def taken(request: RecoveryRequest) -> RecoveryRequest:
    request.out.mkdir()
    (request.out / "mine.txt").write_text("mine")
    return request


def one_document(request: RecoveryRequest) -> RecoveryRequest:
    path = request.out.parent / "one.txt"
    path.write_text(random_text(1, 200))
    return replace(request, text=path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: replace(r, teacher=None), "Give --teacher DIR"),
        (other_teacher, "not the model that pruned was pruned from"),
        (lambda r: replace(r, variant=r.variant.parent / "dense"), "has no variant.json"),
        (taken, "already exists"),
        (one_document, "leaves no document to learn from"),
        (lambda r: replace(r, method="prayer"), "Known methods are"),
        (lambda r: replace(r, method="full", rank=4), "full has no rank"),
        (lambda r: replace(r, method="lora", rank=0), "at least 1"),
        (lambda r: replace(r, tokens=0), "above 0"),
        (lambda r: replace(r, learning_rate=-1.0), "above 0"),
        (lambda r: replace(r, held_out_share=1.0), "between 0 and 1"),
        (lambda r: replace(r, window_tokens=256), "the model's context of 128"),
        (lambda r: replace(r, text=r.variant / "nothing.txt"), "does not exist"),
    ],
)
def test_refusals_leave_nothing_behind(
    spoil: Callable[[RecoveryRequest], RecoveryRequest], words: str, tmp_path: Path, text_file: Path
) -> None:
    request = spoil(request_for(make_variant(tmp_path), text_file, "distillation"))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=words):
        recovered(request)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for it is right")
def test_missing_gpu_is_said(tmp_path: Path, text_file: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        recovered(request_for(make_variant(tmp_path), text_file, device="cuda"))


def test_divergence_leaves_no_state_to_continue(tmp_path: Path, text_file: Path) -> None:
    request = request_for(make_variant(tmp_path), text_file, "full", learning_rate=1e30)
    with pytest.raises(CompressionError, match="Lower --learning-rate"):
        recovered(request)
    assert not request.out.exists() and not list(tmp_path.glob("recovered*"))


def test_a_variant_without_recovery_is_read_as_before(tmp_path: Path) -> None:
    """As manifests were written before there was any recovery."""
    variant = make_variant(tmp_path)
    raw: dict[str, Any] = json.loads((variant / MANIFEST_NAME).read_text())
    assert raw["recovery"] is None
    del raw["recovery"]
    (variant / MANIFEST_NAME).write_text(json.dumps(raw))
    assert load_variant(variant).recovery is None


def test_teacher_may_be_the_dense_models_own_variant(tmp_path: Path, text_file: Path) -> None:
    """Ratio 0 is bit-identical, so its weights have the base's hash where the files are cut alike."""
    variant = make_variant(tmp_path)
    pruned(tmp_path / "dense", tmp_path / "reference", ratio=0.0)
    same = sha256_of_folder(tmp_path / "reference", "*.safetensors") == load_variant(variant).base.sha256
    request = request_for(variant, text_file, "block_local", teacher=tmp_path / "reference")
    if same:
        assert recovered(request).recovery is not None
    else:
        with pytest.raises(ConfigError, match="not the model"):
            recovered(request)
