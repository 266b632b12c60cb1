"""Weights from disk and back one tensor at a time, so that what is resident is what is being worked on.

The library's own loader maps whole files and its writer copies every tensor of a file into one buffer first; both would
hide or double what a single block takes. The format is simple enough to read a range and to write a stream: eight bytes
of header length, a JSON header with types, shapes and offsets, then the tensors' bytes one behind the other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from artifacts.errors import CheckpointError
from artifacts.files import PARTIAL_SUFFIX, disk_error
from compressors.headers import TensorHeader, damaged_file, weight_files

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK_BYTES = 16 << 20
_READABLE = 0o644
PIECE_ROWS = 16384


class Writable(Protocol):
    """A tensor that can be written to a file piece by piece."""

    @property
    def header(self) -> TensorHeader: ...

    def chunks(self) -> Iterable[bytes | memoryview]:
        """Its bytes in order."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor inside a file: `start` is the absolute position of its first byte."""

    path: Path
    header: TensorHeader
    start: int

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.header.dtype]

    def read(self, first_row: int = 0, rows: int | None = None) -> Tensor:
        """The tensor as stored, or `rows` of its first dimension. Raises CheckpointError for a truncated file."""
        shape = self.header.shape if rows is None else (rows, *self.header.shape[1:])
        row_bytes = self.header.size_bytes // self.header.shape[0] if self.header.shape else 0
        tensor = torch.empty(shape, dtype=self.dtype)
        with self.path.open("rb") as stream:
            stream.seek(self.start + first_row * row_bytes)
            if stream.readinto(_raw(tensor)) != tensor.nbytes:
                raise CheckpointError(f"{self.path} is truncated. Fetch or write the checkpoint again.")
        return tensor

    def row_pieces(self) -> Iterator[Tensor]:
        """Its rows in order, some thousands at a time."""
        rows = self.header.shape[0]
        for first in range(0, rows, PIECE_ROWS):
            yield self.read(first, min(PIECE_ROWS, rows - first))

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a few MiB at a time. Raises CheckpointError for a truncated file."""
        left = self.header.size_bytes
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            while left:
                chunk = stream.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise CheckpointError(f"{self.path} is truncated. Fetch or write the checkpoint again.")
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True, slots=True)
class Resident:
    """A tensor in memory that is to be written as `dtype`."""

    tensor: Tensor
    dtype: torch.dtype

    @property
    def header(self) -> TensorHeader:
        return TensorHeader(_NAMES[self.dtype], tuple(self.tensor.shape))

    def chunks(self) -> Iterator[memoryview]:
        yield _raw(self.tensor.detach().to("cpu", self.dtype).contiguous())


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor that is made some rows at a time while it is written as `dtype`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]

    @property
    def header(self) -> TensorHeader:
        return TensorHeader(_NAMES[self.dtype], self.shape)

    def chunks(self) -> Iterator[memoryview]:
        for piece in self.pieces():
            yield _raw(piece.to("cpu", self.dtype).contiguous())


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint folder by name. Raises CheckpointError if a file is missing or damaged."""
    return {name: stored for path in weight_files(folder) for name, stored in tensors_of_file(path).items()}


def tensors_of_file(path: Path) -> dict[str, Stored]:
    """Raises CheckpointError if the file is damaged."""
    header, begin = _read_header(path)
    header.pop("__metadata__", None)
    try:
        return {
            name: Stored(path, TensorHeader(entry["dtype"], tuple(entry["shape"])), begin + entry["data_offsets"][0])
            for name, entry in header.items()
        }
    except (KeyError, TypeError, IndexError) as error:
        raise damaged_file(path, error) from error


def require_finite_weights(tensor: Tensor, name: str, folder: Path) -> None:
    """Raises CheckpointError if the checkpoint's tensor holds NaN or infinite values."""
    extremes = torch.stack(tensor.aminmax())  # NaN wins both; unlike an elementwise test nothing of its size is made
    if not bool(torch.isfinite(extremes).all()):
        raise CheckpointError(f"{folder}: {name} has values that are not finite. Use an undamaged checkpoint.")


def metadata_of_file(path: Path) -> dict[str, str]:
    return dict(_read_header(path)[0].get("__metadata__", {}))


def write_shard(path: Path, tensors: Mapping[str, Writable], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file; it has its name only once it is complete. Raises ConfigError if the disk is full."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as stream:
            stream.write(_header_bytes(tensors, {"format": "pt", **(metadata or {})}))
            for tensor in tensors.values():
                _copy(tensor.chunks(), stream)
        partial.chmod(_READABLE)  # engines often run as another user
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def _copy(chunks: Iterable[bytes | memoryview], stream: BinaryIO) -> None:
    for chunk in chunks:
        stream.write(chunk)


def _header_bytes(tensors: Mapping[str, Writable], metadata: Mapping[str, str]) -> bytes:
    """Padded with spaces so that the tensors start at a multiple of eight bytes."""
    content: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.header.size_bytes
        content[name] = {
            "dtype": tensor.header.dtype,
            "shape": list(tensor.header.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError, MemoryError, OverflowError) as error:
        raise damaged_file(path, error) from error
    return header, 8 + length


def _raw(tensor: Tensor) -> memoryview:
    """The tensor's own bytes, without a copy."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
