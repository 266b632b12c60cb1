"""Is the folder that a variant names a checkpoint that can be loaded, and how many bytes will its weights take?

Looked at before any engine is started, because an engine needs half a minute to say the same in a traceback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from artifacts.errors import CheckpointError, ConfigError
from artifacts.files import sha256_of_folder
from artifacts.variant import VariantManifest, is_variant, load_variant, verify_checksums

# vLLM loads what this entry point group names; without ours it does not know layers that differ.
PLUGINS = "vllm.general_plugins"
OWN_MODEL_TYPE = "prunebench"

_DTYPE_BYTES = {"auto": None, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None for a hub id. Raises ConfigError if it must be a folder but is none."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.startswith(("/", ".", "~")) or model.count("/") > 1 or path.exists():
        raise ConfigError(f"{model} is not a folder. Give a checkpoint folder or a hub id such as 'org/name'.")
    return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that was found whole; `fingerprint` is stamped on every answer that comes from it."""

    manifest: VariantManifest | None
    fingerprint: str


def checked(folder: Path) -> Checkpoint:
    """Reads every byte once: against variant.json where there is one. Raises CheckpointError, ConfigError."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json. Give a folder with a Hugging Face checkpoint.")
    manifest = load_variant(folder) if is_variant(folder) else None
    if manifest is not None:
        verify_checksums(folder, manifest)
        return Checkpoint(manifest, manifest.fingerprint)
    weights_bytes(folder, "auto")
    return Checkpoint(None, sha256_of_folder(folder)[:12])


def require_plugin(folder: Path) -> None:
    """Raises ConfigError for a checkpoint whose layers differ where vLLM would not know how to load it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != OWN_MODEL_TYPE or any(p.name == OWN_MODEL_TYPE for p in entry_points(group=PLUGINS)):
        return
    raise ConfigError(
        f"{folder} has layers that differ, and vLLM finds no plug-in for them. Install prunebench in the environment "
        "that vLLM runs in (pip install -e . in a source tree)."
    )


def weights_bytes(folder: Path, dtype: str) -> int:
    """Bytes that the folder's tensors take once loaded as `dtype` (`auto`: as stored). Raises CheckpointError."""
    return sum(_tensor_bytes(shard, _DTYPE_BYTES.get(dtype)) for shard in sorted(folder.glob("*.safetensors")))


def _tensor_bytes(shard: Path, element_bytes: int | None) -> int:
    """Sums the header's tensors; the header must describe exactly the bytes that follow it."""
    try:
        with shard.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            size_bytes = shard.stat().st_size
            if header_bytes > size_bytes:
                raise _damaged(shard, "its header is longer than the file")
            header = json.loads(stream.read(header_bytes))
    except ValueError as error:
        raise _damaged(shard, "its header is not JSON") from error
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    end = max((entry["data_offsets"][1] for entry in tensors), default=0)
    if size_bytes != 8 + header_bytes + end:
        raise _damaged(shard, f"it has {size_bytes} bytes, its header describes {8 + header_bytes + end}")
    if element_bytes is None:
        return int(end)
    return sum(_elements(entry["shape"]) for entry in tensors) * element_bytes


def _elements(shape: list[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _damaged(shard: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{shard} is damaged: {what}. Make or download this checkpoint again.")
