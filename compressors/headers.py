"""What a checkpoint's weight files hold, read from their headers alone: names, shapes and types of all tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from artifacts.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """`dtype` is the safetensors name, such as BF16."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * element_bytes(self.dtype)


def element_bytes(dtype: str) -> int:
    return _BYTES[dtype]


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """All tensors by name. Raises CheckpointError if a weight file is missing or damaged."""
    headers: dict[str, TensorHeader] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - the shard is no mapping
                    piece = shard.get_slice(name)
                    headers[name] = TensorHeader(piece.get_dtype(), tuple(piece.get_shape()))
        except (OSError, SafetensorError) as error:
            raise damaged_file(path, error) from error
    return headers


def damaged_file(path: Path, why: Exception) -> CheckpointError:
    """The one wording for a file of a checkpoint that cannot be read."""
    return CheckpointError(f"{path} is damaged ({why}). Fetch or write the checkpoint again.")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The shards in name order. Raises CheckpointError if one is missing or the index cannot be read."""
    index = folder / INDEX_NAME
    if not index.is_file():
        names = [SINGLE_NAME]
    else:
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged_file(index, error) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks the weight file {missing[0]}. Only complete safetensors checkpoints can be read."
        )
    return tuple(folder / name for name in names)
