"""Models are found, read as they are stored, and named as the user named them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_models import FAMILIES, build_model, save_checkpoint
from tokenizers import Tokenizer

from artifacts.errors import ConfigError
from artifacts.files import sha256_of_folder
from compressors.budget import Dimensions
from compressors.source import load_model, load_tokenizer, open_source, read_config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / family, family)
    source = open_source(str(folder))
    assert source.dimensions == Dimensions(layers=3, kv_heads=4, ffn_width=48, hidden_size=64)
    assert source.architecture == type(build_model(family)).__name__
    assert source.name == family and source.folder == folder
    assert source.sha256 == sha256_of_folder(folder, "*.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_stored_type_is_read_from_the_files(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", dtype=dtype)
    assert open_source(str(folder)).dtype == dtype
    model = load_model(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_a_relative_folder_is_named_by_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    assert open_source(".").name == "model"


def test_a_hub_id_is_fetched_and_kept_as_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "snapshot")
    asked: list[str] = []

    def fetch(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append(repository)
        assert "*.safetensors" in allow_patterns and not any("bin" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("compressors.source.snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    source = open_source("owner/model-1.5B")
    assert asked == ["owner/model-1.5B"] and source.name == "owner/model-1.5B" and source.folder == folder


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("a long story\nin many lines")

    monkeypatch.setattr("compressors.source.snapshot_download", fail)
    with pytest.raises(ConfigError) as caught:
        open_source("owner/model")
    assert "owner/model is neither a folder here nor a model" in str(caught.value)
    assert "LocalEntryNotFoundError" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"weights\.bin is not a folder"):
        open_source(str(tmp_path / "weights.bin"))


@pytest.mark.parametrize("name", ["stories260K", "stories260K-hd32", "stories260K-hd32-qwen2"])
def test_tokens_are_those_of_the_tokenizer_file(stories: Callable[[str], Path], name: str) -> None:
    """The Qwen2 twin's text splitting would be replaced by the library's own for that family."""
    folder, text = stories(f"models/{name}"), "Once upon a time, Tim"
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    tokenizer = load_tokenizer(folder)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected == [403, 407, 261, 378, 432, 326]
    assert tokenizer.bos_token_id == 1


def test_the_twins_compute_the_same(stories: Callable[[str], Path]) -> None:
    """All three shared checkpoints are one function, which the loader must not disturb."""
    names = ("stories260K", "stories260K-hd32", "stories260K-hd32-qwen2")
    ids = torch.tensor([[1, 403, 407, 261, 378]])
    with torch.inference_mode():
        logits = [load_model(stories(f"models/{name}"))(input_ids=ids).logits for name in names]
    assert torch.allclose(logits[0], logits[1], atol=1e-4) and torch.allclose(logits[0], logits[2], atol=1e-4)


def test_loading_draws_no_bar(model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(model_folder)
    assert "Loading weights" not in capfd.readouterr().err


def test_config_is_returned_as_it_stands(model_folder: Path) -> None:
    assert read_config(model_folder)["intermediate_size"] == 48
