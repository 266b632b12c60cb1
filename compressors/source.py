"""Finding, checking and loading the model to prune, with a sentence for everything that can be wrong with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from artifacts.errors import CheckpointError, ConfigError
from artifacts.files import sha256_of_folder
from artifacts.variant import Footprint, is_variant, load_variant, verify_checksums
from compressors.arch import require_supported
from compressors.budget import Dimensions
from compressors.footprint import footprint_of_tensors
from compressors.headers import TensorHeader, read_headers
from compressors.shards import require_finite_weights
from modeling.pruned_config import head_width
from modeling.registration import register_with_transformers

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that passed all checks that need no weights.

    `config` is `config.json` with Transformers' defaults for what it leaves out; `dtype` is how weights are stored.
    """

    name: str
    folder: Path
    architecture: str
    config: dict[str, Any]
    dimensions: Dimensions
    dtype: torch.dtype
    footprint: Footprint
    sha256: str


def open_source(model: str) -> Source:
    """`model` is a local folder or a hub id.

    Raises ConfigError (nothing there), CheckpointError (damaged) or UnsupportedModel.
    """
    folder = resolve_folder(model)
    config = read_config(folder)
    architecture = (config.get("architectures") or ["model of unnamed architecture"])[0]
    require_supported(architecture, config, str(model))
    if is_variant(folder):
        verify_checksums(folder, load_variant(folder))
    headers, resolved = read_headers(folder), resolve_config(folder)
    return Source(
        name=folder.resolve().name if Path(model).exists() else model,
        folder=folder,
        architecture=architecture,
        config=resolved,
        dimensions=_dimensions(resolved),
        dtype=_stored_dtype(headers, folder),
        footprint=footprint_of_tensors(headers, tied=is_tied(resolved)),
        sha256=sha256_of_folder(folder, "*.safetensors"),
    )


def resolve_folder(model: str, wanted: Sequence[str] = _WANTED) -> Path:
    """The local folder, or the hub's snapshot of its `wanted` files. Raises ConfigError if there is neither."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.match(model):
        raise ConfigError(f"{model} is not a folder. Give a folder with config.json and safetensors, or a hub id.")
    try:
        return Path(snapshot_download(model, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = type(error).__name__
        raise ConfigError(
            f"{model} is neither a folder here nor a model that the hub or its local cache could give ({reason}). "
            "Check the name, the network and HF_HUB_OFFLINE."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands. Raises ConfigError if the folder has none, CheckpointError if it is damaged."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a model folder: it has no config.json. Give a Hugging Face checkpoint.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Fetch the checkpoint again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object. Fetch the checkpoint again.")
    return config


def resolve_config(folder: Path) -> dict[str, Any]:
    """`config.json` with what it leaves out: Transformers' defaults, and the head width, which classes such as Qwen2's
    leave to be computed. Raises CheckpointError if it is not valid."""
    register_with_transformers()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder}/config.json is not valid ({reason}). Fetch the checkpoint again.") from error
    resolved: dict[str, Any] = config.to_dict()
    return resolved | ({"head_dim": head_width(config)} if resolved.get("num_attention_heads") else {})


def _dimensions(config: dict[str, Any]) -> Dimensions:
    return Dimensions(
        layers=config["num_hidden_layers"],
        kv_heads=config["num_key_value_heads"],
        ffn_width=config["intermediate_size"],
        hidden_size=config["hidden_size"],
    )


def is_tied(config: dict[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", False))


def load_model(folder: Path) -> Any:
    """The Transformers model in float32, evaluation mode, no gradients.

    Raises CheckpointError for damaged or missing tensors and for values that are not finite.
    """
    register_with_transformers()
    try:
        with _quiet_loading():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder} cannot be loaded ({reason}). Fetch or write the checkpoint again.") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]}. Fetch or write the checkpoint again.")
    for name, parameter in model.named_parameters():
        require_finite_weights(parameter, name, folder)
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer as `tokenizer.json` describes it. Raises CheckpointError if the folder has none that is usable.

    For some families (Qwen2 is one) AutoTokenizer rebuilds the text splitting from its own code and ignores the file's,
    which gives other tokens for a model that was trained with the file's.
    """
    loader = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return loader.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} has no usable tokenizer ({reason}). Add its tokenizer files.") from error


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keeps the library's own loading bar off the terminal: callers draw their own."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


def _stored_dtype(headers: dict[str, TensorHeader], folder: Path) -> torch.dtype:
    """The type that most weights are stored in. Raises CheckpointError for another than F32, F16 and BF16."""
    elements: Counter[str] = Counter()
    for header in headers.values():
        elements[header.dtype] += header.elements
    dtype = elements.most_common(1)[0][0] if elements else "none"
    if dtype not in _DTYPES:
        raise CheckpointError(f"{folder} stores its weights as {dtype}; allowed are {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]
