"""A checkpoint of which one block is in memory at a time.

Weights are read in float32 onto the device when their block's turn comes. The embedding is read by the rows that the
text needs and the output head in slices of the vocabulary, because for many models either weighs more than four blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoConfig

from artifacts.errors import CheckpointError
from compressors.arch import LayerView
from compressors.footprint import EMBEDDING, HEAD
from compressors.shards import Stored, require_finite_weights, stored_tensors
from compressors.skeleton import Skeleton
from modeling.registration import register_with_transformers

FINAL_NORM = "model.norm.weight"


class BlockModel(Protocol):
    """A causal language model, taken apart: an embedding, blocks that are loaded one by one, and a head."""

    @property
    def config(self) -> Any:
        """The Transformers configuration."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int:
        """The number of blocks."""

    def load(self, index: int) -> LayerView:
        """A block of its own, in float32 on the device: cutting it changes nobody else's."""

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [N, T] to hidden states [N, T, D], float32 on the CPU."""

    def arguments(self, tokens: int) -> list[dict[str, Any]]:
        """What each block is called with for windows of `tokens` tokens."""

    def logits(self, states: Tensor) -> Tensor:
        """Hidden states [..., D] behind the last block to logits [..., V] on their device."""


class CheckpointModel:
    """The model in a folder. `keep_resident` remembers what was read, for work that visits blocks often."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu", *, keep_resident: bool = False) -> None:
        """Raises CheckpointError if a tensor that the configuration implies is missing."""
        register_with_transformers()
        self._config = AutoConfig.from_pretrained(folder, local_files_only=True)
        self.skeleton = Skeleton(self._config)
        self.stored = stored_tensors(folder)
        self._folder = folder
        self._device = torch.device(device)
        self._resident: dict[str, Tensor] | None = {} if keep_resident else None
        self._require_complete()

    @property
    def config(self) -> Any:
        return self._config

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def is_tied(self) -> bool:
        return bool(self.config.tie_word_embeddings)

    def __len__(self) -> int:
        return self.skeleton.block_count

    def load(self, index: int) -> LayerView:
        """Raises CheckpointError for damaged files and values that are not finite."""
        names = self.skeleton.block_tensors(index)
        return self.skeleton.block(index, {name: self._parameter(f"model.layers.{index}.{name}") for name in names})

    def embed(self, ids: Tensor) -> Tensor:
        wanted, places = ids.unique(return_inverse=True)
        stored = self.stored[EMBEDDING]
        rows = torch.empty(len(wanted), stored.header.shape[1])
        for place, (first, count) in _runs(wanted.tolist()):
            rows[place : place + count] = stored.read(first, count).float()
        require_finite_weights(rows, EMBEDDING, self._folder)
        return rows[places]

    def arguments(self, tokens: int) -> list[dict[str, Any]]:
        return self.skeleton.arguments(tokens, self._device)

    def logits(self, states: Tensor) -> Tensor:
        norm = self.skeleton.final_norm(self._parameter(FINAL_NORM))
        normed = norm(states.to(self._device))
        return torch.cat(list(self._head_products(normed)), dim=-1)

    def ends(self) -> dict[str, Stored]:
        """The stored tensors outside the blocks: embedding, final norm and, unless tied, head."""
        return {name: self.stored[name] for name in self.skeleton.end_tensors()}

    def require_finite_ends(self) -> None:
        """Raises CheckpointError naming the tensor outside the blocks that holds NaN or infinite values."""
        for name, stored in self.ends().items():
            for piece in stored.row_pieces():
                require_finite_weights(piece, name, self._folder)

    def _head_products(self, normed: Tensor) -> Iterator[Tensor]:
        """[..., rows] slices of the logits, in order; no two pieces of the output matrix are in memory together."""
        name = EMBEDDING if self.is_tied else HEAD
        if self._resident is not None:
            yield normed @ self._parameter(name).T
            return
        for piece in self.stored[name].row_pieces():
            yield normed @ piece.to(self._device, torch.float32).T
            del piece

    def _parameter(self, name: str) -> Tensor:
        if self._resident is not None and name in self._resident:
            return self._resident[name]
        tensor = self.stored[name].read().to(self._device, torch.float32)
        require_finite_weights(tensor, name, self._folder)
        if self._resident is not None:
            self._resident[name] = tensor
        return tensor

    def _require_complete(self) -> None:
        for name, shape in self.skeleton.shapes().items():
            if name not in self.stored:
                raise CheckpointError(f"{self._folder} lacks the tensor {name}. Fetch or write the checkpoint again.")
            if self.stored[name].header.shape != shape:
                raise CheckpointError(
                    f"{self._folder}: {name} has shape {self.stored[name].header.shape}, config.json implies {shape}. "
                    "Fetch or write the checkpoint again."
                )


def _runs(ascending: list[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Runs of consecutive numbers as (position of the run's first, (first, length))."""
    start = 0
    for place in range(1, len(ascending) + 1):
        if place == len(ascending) or ascending[place] != ascending[place - 1] + 1:
            yield start, (ascending[start], place - start)
            start = place
