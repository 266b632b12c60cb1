"""Everything that can be wrong with a request or a model: one sentence each, and nothing left under the final name."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, save_checkpoint

from artifacts.errors import CheckpointError, ConfigError, PrunebenchError, UnsupportedModel
from compressors import shards
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant


@pytest.fixture
def request_(model_folder: Path, text_file: Path) -> CompressionRequest:
    """A good request."""
    return CompressionRequest(
        model=str(model_folder),
        out=model_folder.parent / "out" / "variant",
        method="wanda_sp",
        ratio=0.25,
        calibration=str(text_file),
        calibration_tokens=128,
        window_tokens=16,
    )


def refuse(request: CompressionRequest, error: type[PrunebenchError], fragment: str) -> None:
    """Asserts class and sentence, and that neither the variant nor a part of it was left."""
    with pytest.raises(error) as caught:
        compress(request, verify=verify_variant)
    message = str(caught.value)
    assert fragment in message, message
    assert message.endswith(".") and "\n" not in message and len(message) < 500
    assert not request.out.exists()
    assert not request.out.parent.exists() or not list(request.out.parent.iterdir())


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"model": "./nowhere"}, "./nowhere is not a folder"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all is not a folder"),
        ({"ratio": 1.0}, "ratio is 1; it must be at least 0 and below 1"),
        ({"ratio": -0.5}, "ratio is -0.5"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": 0.9, "units": ("kv",)}, "would leave no KV group of 4"),
        ({"ratio": 0.9, "units": ("layers",), "method": "block_influence"}, "would leave no layer of 3"),
        ({"multiple_of": 64}, "FFN width 48 cannot be rounded to a multiple of 64"),
        ({"multiple_of": 0}, "multiple of 0"),
        ({"method": "obsidian"}, "method 'obsidian' is unknown"),
        ({"method": "random", "units": ("layers",)}, "Method random cannot prune layers. Its units are ffn, kv"),
        ({"units": ("layers",)}, "Method wanda_sp cannot prune layers. Its units are ffn, kv"),
        ({"device": "cuda"}, "sees no CUDA device here"),
        ({"units": ()}, "cannot prune nothing"),
        ({"method": "block_influence", "units": ("ffn",)}, "cannot prune ffn. Its units are layers"),
        ({"calibration": None}, "Method wanda_sp needs calibration text"),
        ({"method": "block_influence", "calibration": None}, "Method block_influence needs calibration text"),
        ({"method": "magnitude", "calibration": None, "repair": "ridge"}, "Compensation needs calibration text"),
        ({"method": "block_influence", "repair": "ridge"}, "leaves nothing to refit"),
        ({"repair": "bias"}, "adds to the biases behind ffn, but"),
        ({"calibration": "/nowhere.txt"}, "/nowhere.txt does not exist"),
        ({"calibration_tokens": 8}, "make no window"),
        ({"calibration_tokens": 100_000}, "stories.txt is too short"),
    ],
)
def test_a_request_that_cannot_be(request_: CompressionRequest, changes: dict[str, Any], fragment: str) -> None:
    refuse(replace(request_, **changes), ConfigError, fragment)


def test_an_empty_calibration_text(request_: CompressionRequest, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    refuse(replace(request_, calibration=str(tmp_path / "empty.txt")), ConfigError, "empty.txt is empty")


def test_a_hub_model_that_cannot_be_had(request_: CompressionRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(replace(request_, model="nobody/nothing-here"), ConfigError, "nobody/nothing-here is neither a folder here")


def test_an_output_that_exists_is_kept(request_: CompressionRequest) -> None:
    request_.out.mkdir(parents=True)
    (request_.out / "precious").write_text("data")
    with pytest.raises(ConfigError, match="already exists"):
        compress(request_)
    assert (request_.out / "precious").read_text() == "data"


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _gpt2(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a tensor in sight" * 100)


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _nan(folder: Path) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")

    _edit_weights(folder, poison)


def _missing_tensor(folder: Path) -> None:
    def lose(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.2.mlp.up_proj.weight"]

    _edit_weights(folder, lose)


def _wrong_shape(folder: Path) -> None:
    edit_config(folder, intermediate_size=50)


def _float64(folder: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.update({name: t.double() for name, t in tensors.items()}))


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "error", "fragment"),
    [
        (_no_config, ConfigError, "is not a model folder: it has no config.json"),
        (_gpt2, UnsupportedModel, "is a GPT2LMHeadModel, which cannot be pruned. Supported are LlamaForCausalLM"),
        (lambda f: edit_config(f, architectures=None), UnsupportedModel, "unnamed architecture"),
        (lambda f: edit_config(f, quantization_config={"bits": 4}), UnsupportedModel, "is quantised"),
        (lambda f: edit_config(f, use_sliding_window=True, sliding_window=8), UnsupportedModel, "sliding windows"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "holds no JSON object"),
        (lambda f: edit_config(f, num_attention_heads=7), CheckpointError, "config.json is not valid"),
        (_no_weights, CheckpointError, "lacks the weight file model.safetensors"),
        (_truncated, CheckpointError, "model.safetensors is damaged"),
        (_garbage, CheckpointError, "model.safetensors is damaged"),
        (_nan, CheckpointError, "model.layers.1.mlp.up_proj.weight has values that are not finite"),
        (_missing_tensor, CheckpointError, "lacks the tensor model.layers.2.mlp.up_proj.weight"),
        (_wrong_shape, CheckpointError, r"config.json implies (50, 64)"),
        (_float64, CheckpointError, "stores its weights as F64"),
        (_no_tokenizer, CheckpointError, "has no usable tokenizer"),
    ],
)
def test_a_model_that_cannot_be(
    request_: CompressionRequest,
    model_folder: Path,
    damage: Callable[[Path], Any],
    error: type[PrunebenchError],
    fragment: str,
) -> None:
    damage(model_folder)
    refuse(request_, error, fragment)


def test_a_damaged_variant_is_not_pruned_further(request_: CompressionRequest, model_folder: Path) -> None:
    first = replace(request_, out=model_folder.parent / "first")
    compress(first, verify=verify_variant)
    weights = bytearray((first.out / "model.safetensors").read_bytes())
    weights[-10] ^= 1
    (first.out / "model.safetensors").write_bytes(weights)
    refuse(
        replace(request_, model=str(first.out)), CheckpointError, "model.safetensors is damaged: its SHA-256 differs"
    )


@pytest.mark.parametrize("file", ["block-0001", "model", "probe"])
def test_a_full_disk(request_: CompressionRequest, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    copy = shards._copy

    def full(chunks: Iterable[bytes | memoryview], stream: BinaryIO) -> None:
        if Path(stream.name).name.startswith(f"{file}.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(chunks, stream)

    monkeypatch.setattr(shards, "_copy", full)
    refuse(request_, ConfigError, f"{file}.safetensors could not be written (No space left on device)")


def test_a_disk_that_fills_up_in_a_small_file(request_: CompressionRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    refuse(request_, ConfigError, "could not be written (No space left on device)")


def test_a_variant_that_fails_verification_is_not_kept(request_: CompressionRequest) -> None:
    def reject(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise CheckpointError("The logits differ.")

    with pytest.raises(CheckpointError):
        compress(request_, verify=reject)
    assert not request_.out.exists() and not list(request_.out.parent.iterdir())


def test_both_forms_of_a_good_request_pass(request_: CompressionRequest, tmp_path: Path) -> None:
    """The table above would also pass if everything were refused."""
    compress(request_, verify=verify_variant)
    save_checkpoint(tmp_path / "other", "qwen3")
    compress(replace(request_, model=str(tmp_path / "other"), out=tmp_path / "x"), verify=verify_variant)
    assert request_.out.is_dir() and (tmp_path / "x" / "variant.json").is_file()
