"""Where the repaired consumers of a search wait: in memory where they fit, else in files of the workspace.

Levels are rounded to the type that the checkpoint stores, so they are kept in it and come back with the same bits from
either place. They wait on the CPU, whatever device computes: many levels are more than a device that holds one block.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from compressors.arch import Half, WidthUnit
from compressors.shards import Resident, tensors_of_file, write_shard

# All levels of one base together; what takes more goes to files.
MEMORY_BYTES = 1 << 32


@dataclass(frozen=True, slots=True)
class Repaired:
    """A consumer's weights [rows, kept columns] and bias [rows] as they will be stored."""

    weight: Tensor
    bias: Tensor | None = None


class LevelStore(Protocol):
    """Repaired consumers by half layer and count of its units."""

    def keep(self, half: Half, count: int, consumer: nn.Linear) -> None: ...

    def find(self, half: Half, count: int) -> Repaired | None:
        """None for a level that needed no repair."""

    def drop(self) -> None:
        """Forgets all levels."""


class MemoryLevels:
    """Keeps them in `dtype`."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._levels: dict[tuple[Half, int], Repaired] = {}

    def keep(self, half: Half, count: int, consumer: nn.Linear) -> None:
        parts = (consumer.weight, consumer.bias)
        self._levels[half, count] = Repaired(*(p if p is None else p.detach().to("cpu", self._dtype) for p in parts))

    def find(self, half: Half, count: int) -> Repaired | None:
        return self._levels.get((half, count))

    def drop(self) -> None:
        self._levels.clear()


class FolderLevels:
    """Keeps them in `dtype`, each in a safetensors file of a folder of its own."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Whatever an earlier search left in the folder is removed."""
        self._folder, self._dtype = folder, dtype
        self.drop()

    def keep(self, half: Half, count: int, consumer: nn.Linear) -> None:
        """Raises ConfigError if the disk is full."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: Resident(parameter, self._dtype) for name, parameter in consumer.named_parameters()}
        write_shard(self._path(half, count), tensors)

    def find(self, half: Half, count: int) -> Repaired | None:
        """Raises CheckpointError if the file was damaged meanwhile."""
        path = self._path(half, count)
        if not path.is_file():
            return None
        stored = tensors_of_file(path)
        return Repaired(stored["weight"].read(), stored["bias"].read() if "bias" in stored else None)

    def drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, half: Half, count: int) -> Path:
        index, unit = half
        return self._folder / f"{index:04d}-{unit}-{count}.safetensors"


def store_for(levels_bytes: int, folder: Path | None, dtype: torch.dtype) -> LevelStore:
    """Memory where they fit or there is no folder."""
    if folder is None or levels_bytes <= MEMORY_BYTES:
        return MemoryLevels(dtype)
    return FolderLevels(folder, dtype)


def level_bytes(
    counts: Mapping[Half, Iterable[int]], unit_columns: Mapping[WidthUnit, int], rows: int, dtype: torch.dtype
) -> int:
    """What the consumers [rows, count * unit columns] of these counts take together."""
    columns = sum(count * unit_columns[unit] for (_, unit), wanted in counts.items() for count in wanted)
    return columns * rows * dtype.itemsize
