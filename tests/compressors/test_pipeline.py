"""From a folder to a verified variant, for every family and kind of unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import build_model, logits_of, random_text, save_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from artifacts.files import sha256_of_file, sha256_of_folder
from artifacts.variant import LayerShape, VariantManifest, load_variant, verify_checksums
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.source import open_source, read_config
from compressors.verify import verify_variant

STAGES = ["calibrate", "open", "allocate", "prune", "export", "verify"]


def request_for(model: Path, method: str = "magnitude", ratio: float = 0.25, **changes: Any) -> CompressionRequest:
    """Small windows, written beside the model."""
    plain = CompressionRequest(
        model=str(model),
        out=model.parent / "variant",
        method=method,
        ratio=ratio,
        calibration_tokens=128,
        window_tokens=16,
    )
    return replace(plain, **changes)


def made(request: CompressionRequest) -> VariantManifest:
    """Verified in this process: as strict, and faster than a new one."""
    return compress(request, verify=verify_variant)


def reload(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "architecture", "sentence"),
    [
        ("llama", "MistralForCausalLM", "6 heads do not divide a hidden size of 64"),
        ("llama-biased", "SeedOssForCausalLM", "Mistral has no biases"),
        ("mistral", "MistralForCausalLM", "takes any head count"),
        ("qwen2", "SeedOssForCausalLM", "vLLM's Qwen2 ignores head_dim"),
        ("qwen3", "Qwen3ForCausalLM", "takes any head count"),
    ],
)
def test_kv_and_ffn_pruned_variants_reload_as_stock(
    family: str, architecture: str, sentence: str, tmp_path: Path, text_file: Path
) -> None:
    """`verify_variant` compares the reloaded logits with those in memory; here shapes and label are looked at too."""
    model = save_checkpoint(tmp_path / family, family)
    manifest = made(request_for(model, units=("ffn", "kv"), calibration=str(text_file)))
    config = read_config(tmp_path / "variant")
    assert config["architectures"] == [architecture] == [manifest.architecture], sentence
    assert manifest.base.architecture == read_config(model)["architectures"][0]
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]) == (6, 3, 36)
    assert config["head_dim"] == 32
    assert manifest.layers == tuple(LayerShape(index=i, query_heads=6, kv_heads=3, ffn_width=36) for i in range(3))
    assert type(reload(tmp_path / "variant")).__name__ == architecture


def test_relabelling_carries_the_rotary_parameters(tmp_path: Path) -> None:
    """Scaled rotary embeddings change every logit, so equal logits show that they went along."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    model = save_checkpoint(tmp_path / "scaled", rope_parameters=rope)
    assert not torch.allclose(logits_of(reload(model)), logits_of(build_model()), atol=1e-3)
    made(request_for(model, units=("kv",)))
    assert read_config(tmp_path / "variant")["rope_parameters"] == rope


def test_qwen2_with_its_own_head_width_stays_qwen2(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "qwen", "qwen2", num_attention_heads=2, num_key_value_heads=1)
    assert made(request_for(model)).architecture == "Qwen2ForCausalLM"


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["random", "wanda_sp", "block_influence"])
def test_ratio_zero_is_bit_identical(
    family: str, dtype: torch.dtype, method: str, tmp_path: Path, text_file: Path
) -> None:
    """Weights and logits, tied and untied, with the repair switched on where there is one."""
    model = save_checkpoint(tmp_path / "dense", family, dtype)
    manifest = made(request_for(model, method, 0.0, calibration=str(text_file)))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "variant"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype and torch.equal(after[name], tensor), name
    assert torch.equal(logits_of(reload(tmp_path / "variant")), logits_of(reload(model)))
    assert set(manifest.ratios.model_dump().values()) == {0.0}


def test_tied_stays_tied_and_untied_untied(tmp_path: Path) -> None:
    for family, tied in (("llama", True), ("qwen3", False)):
        (tmp_path / family).mkdir()
        made(request_for(save_checkpoint(tmp_path / family / "model", family)))
        stored = load_file(tmp_path / family / "variant" / "model.safetensors")
        assert ("lm_head.weight" in stored) != tied
        assert read_config(tmp_path / family / "variant")["tie_word_embeddings"] is tied


def test_a_layer_goes_and_the_rest_is_renumbered(tmp_path: Path, text_file: Path) -> None:
    """The middle layer writes nothing, so it goes first and the logits are those of the dense model."""
    model = build_model("qwen2")
    for writer in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
        writer.weight.zero_()
    folder = save_checkpoint(tmp_path / "dense", "qwen2")
    model.save_pretrained(folder)
    manifest = made(request_for(folder, "block_influence", 0.3, calibration=str(text_file)))
    assert [layer.present for layer in manifest.layers] == [True, False, True]
    assert manifest.layers[1] == LayerShape(index=1, present=False, query_heads=0, kv_heads=0, ffn_width=0)
    assert torch.allclose(logits_of(reload(tmp_path / "variant")), logits_of(model), atol=1e-6)
    assert manifest.ratios.params_blocks == pytest.approx(1 / 3)
    assert manifest.ratios.kv_bytes_per_token == pytest.approx(1 / 3)


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda_sp"])
def test_equal_seeds_give_equal_bytes(method: str, tmp_path: Path, text_file: Path) -> None:
    model = save_checkpoint(tmp_path / "dense")
    request = request_for(model, method, 0.5, calibration=str(text_file), seed=4)
    first = made(request)
    again = made(replace(request, out=tmp_path / "again"))
    other = made(replace(request, out=tmp_path / "other", seed=5))
    assert first.checksums == again.checksums and first.fingerprint == again.fingerprint
    assert first.checksums["model.safetensors"] != other.checksums["model.safetensors"]


def test_the_manifest_is_complete_and_true(tmp_path: Path, text_file: Path) -> None:
    model = save_checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    manifest = made(request_for(model, "wanda_sp", 0.5, units=("kv", "ffn"), calibration=str(text_file), seed=9))
    folder = tmp_path / "variant"
    assert load_variant(folder) == manifest and manifest.name == "variant"
    verify_checksums(folder, manifest)
    assert {path.name for path in folder.iterdir()} == {"variant.json", *manifest.checksums}
    assert manifest.base.sha256 == sha256_of_folder(model, "*.safetensors") and manifest.base.name == "dense"
    assert manifest.base.footprint == open_source(str(model)).footprint
    reloaded = reload(folder)
    assert manifest.footprint.params_total == sum(p.numel() for p in reloaded.parameters())
    assert manifest.footprint.weights_bytes == 2 * manifest.footprint.params_total
    assert manifest.footprint.kv_bytes_per_token == 2 * 3 * 2 * 32 * 2
    assert manifest.ratios.kv_bytes_per_token == 0.5 and manifest.ratios.nominal == 0.5
    assert manifest.method.model_dump() == {
        "name": "wanda_sp",
        "config": {},
        "units": ("kv", "ffn"),
        "repair": "ridge",
        "together": 1,
        "seed": 9,
        "multiple_of": 1,
    }
    assert manifest.calibration is not None and manifest.calibration.sha256 == sha256_of_file(text_file)
    assert manifest.calibration.tokens == 128
    assert list(manifest.cost.stages_s) == STAGES
    assert manifest.cost.wall_s >= sum(manifest.cost.stages_s.values()) > 0
    assert manifest.cost.peak_memory_bytes > 10_000_000
    assert {"python", "torch", "transformers"} <= manifest.versions.keys()


def test_companions_come_along_and_the_tokenizer_works(model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text("{{ messages }}")
    made(request_for(model_folder))
    out = model_folder.parent / "variant"
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model_folder / name).read_bytes()
    assert AutoTokenizer.from_pretrained(out)("w5 w6", add_special_tokens=False)["input_ids"] == [5, 6]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.iterdir()), "other users can read every file"


def test_data_free_methods_record_no_calibration(model_folder: Path, text_file: Path) -> None:
    assert made(request_for(model_folder)).calibration is None
    unused = request_for(model_folder, out=model_folder.parent / "b", calibration=str(text_file), repair="none")
    manifest = made(unused)
    assert manifest.calibration is None and manifest.method.repair == "none"


def test_a_variant_can_be_pruned_again(model_folder: Path) -> None:
    """Also after re-labelling; the second manifest's base is the first variant."""
    first = made(request_for(model_folder, units=("kv",)))
    second = made(request_for(model_folder.parent / "variant", out=model_folder.parent / "second"))
    assert second.base.name == "variant" and second.base.footprint == first.footprint
    assert second.layers[0].kv_heads == 3 and second.layers[0].ffn_width == 36


def test_progress_covers_every_stage_and_layer(model_folder: Path, text_file: Path) -> None:
    calls: list[tuple[str, float, float]] = []
    request = request_for(model_folder, "wanda_sp", calibration=str(text_file))
    compress(request, lambda *call: calls.append(call), verify_variant)
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == STAGES
    assert [done for stage, done, _ in calls if stage == "prune"] == [0, 1, 2, 3]
    ended = [stage for stage, done, total in calls if done == total]
    assert ended == STAGES


def test_verification_runs_in_a_process_of_its_own(model_folder: Path, text_file: Path) -> None:
    """The one full run with the default verifier."""
    manifest = compress(request_for(model_folder, units=("kv",), calibration=str(text_file)))
    assert load_variant(model_folder.parent / "variant") == manifest
    assert manifest.cost.stages_s["verify"] > 0.5, "a fresh interpreter takes longer than that to import torch"


def test_two_kinds_of_text_do_not_mix(tmp_path: Path, model_folder: Path) -> None:
    """Other calibration text, other survivors or other repair."""
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for seed, path in enumerate(texts):
        path.write_text(random_text(12, 40, seed))
    variants = [
        made(request_for(model_folder, "wanda_sp", 0.5, out=tmp_path / path.stem, calibration=str(path)))
        for path in texts
    ]
    assert variants[0].checksums["model.safetensors"] != variants[1].checksums["model.safetensors"]
