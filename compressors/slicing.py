"""A model in a smaller residual stream: h becomes h Q, with Q [D, k] the directions that stay.

For a matrix W behind a norm with gains g the folded reader is W diag(g) Q, for a matrix that writes into the stream
Q^T W, for the embedding E Q. A norm divides by the root mean square over its D channels; over k channels of the same
length it divides by sqrt(D/k) more, so every norm gets the weight sqrt(D/k), and epsilon grows to epsilon * D/k. If
all states lie in the span of Q the function is the same. The head is a reader behind a norm of its own, which is why
it cannot stay tied to the embedding.

The norm weight is stored in the checkpoint's type; readers make good what its rounding changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifacts.progress import Progress
from compressors.arch import WIDTH_UNITS, LayerView
from compressors.blocks import FINAL_NORM, BlockModel, CheckpointModel
from compressors.compensation import refit_consumer
from compressors.footprint import EMBEDDING, HEAD
from compressors.plan import Plan
from compressors.shards import Computed, Stored, Writable
from compressors.skeleton import Skeleton
from compressors.streams import Streams
from compressors.surgery import rotate_reader, rotate_writer
from compressors.workspace import BlockFolder
from modeling.pruned_config import head_width


@dataclass(frozen=True, slots=True)
class HiddenCut:
    """`basis` [D, k] are the directions that stay, as orthonormal columns; `dtype` is how norm weights are stored."""

    basis: Tensor
    dtype: torch.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.basis.shape[1])

    @property
    def norm_weight(self) -> float:
        """sqrt(D/k) as the checkpoint can say it."""
        return float(torch.tensor(self._exact_weight).to(self.dtype))

    @property
    def reader_scale(self) -> float:
        """What is missing to sqrt(D/k); 1 up to rounding."""
        return self._exact_weight / self.norm_weight

    def norm(self) -> Tensor:
        return torch.full((self.hidden_size,), self.norm_weight)

    def read(self, weight: Tensor, gains: Tensor) -> Tensor:
        """[rows, D] behind a norm with gains [D] to [rows, k]."""
        return weight * (gains * self.reader_scale) @ self.basis

    @property
    def _exact_weight(self) -> float:
        return math.sqrt(self.basis.shape[0] / self.basis.shape[1])


def narrowed_config(base: Any, hidden_size: int) -> Any:
    """The Transformers configuration with another hidden size, before a stock class is chosen for it."""
    narrowed = copy.deepcopy(base)
    narrowed.head_dim = head_width(base)
    narrowed.rms_norm_eps = base.rms_norm_eps * base.hidden_size / hidden_size
    narrowed.hidden_size = hidden_size
    narrowed.tie_word_embeddings = False
    return narrowed


def slice_layer(layer: LayerView, cut: HiddenCut) -> None:
    """Folds both norms into their readers and turns everything that touches the stream."""
    for unit in WIDTH_UNITS:
        if layer.has(unit):
            group, norm = layer.group(unit), layer.norm(unit)
            for producer in group.producers:
                rotate_reader(producer.linear, cut.read(producer.linear.weight, norm.weight))
            rotate_writer(group.consumer, cut.basis)
            norm.weight = nn.Parameter(cut.norm().to(norm.weight), requires_grad=False)


@dataclass(frozen=True, slots=True)
class SlicedEnds:
    """Embedding, final norm and head in the smaller stream, computed while they are written."""

    model: CheckpointModel
    cut: HiddenCut

    def require_finite_ends(self) -> None:
        """Raises CheckpointError naming the tensor that holds NaN or infinite values."""
        self.model.require_finite_ends()

    def ends(self) -> dict[str, Writable]:
        stored = self.model.ends()
        gains = stored[FINAL_NORM].read().float()
        head = stored[EMBEDDING] if self.model.is_tied else stored[HEAD]
        return {
            EMBEDDING: self._turned(stored[EMBEDDING], None),
            FINAL_NORM: Computed(stored[FINAL_NORM].dtype, (self.cut.hidden_size,), lambda: iter([self.cut.norm()])),
            HEAD: self._turned(head, gains),
        }

    def _turned(self, stored: Stored, gains: Tensor | None) -> Computed:
        cut = HiddenCut(self.cut.basis.cpu(), self.cut.dtype)

        def pieces() -> Iterator[Tensor]:
            for piece in stored.row_pieces():
                yield piece.float() @ cut.basis if gains is None else cut.read(piece.float(), gains)

        return Computed(stored.dtype, (stored.header.shape[0], cut.hidden_size), pieces)


def slice_blocks(
    model: BlockModel,
    cut: HiddenCut,
    skeleton: Skeleton,
    sink: BlockFolder,
    plan: Plan,
    progress: Progress,
    windows: Tensor | None = None,
    folder: Path | None = None,
) -> None:
    """Hands every block of the plan to the sink in the smaller stream, whose classes are `skeleton`'s.

    With `windows` [N, T] of token ids every writer is refitted so that the narrow stream returns to what the dense one
    would be in the same directions; `folder` holds the hidden states, None for host memory.
    """
    streams = None if windows is None else Streams(model, windows, keep_dense=True, folder=folder, basis=cut.basis)
    for index in range(len(model)):
        progress("prune", index, len(model))
        known = sink.finished(index)
        if known is None:
            sink.keep(index, _sliced(model.load(index), index, cut, skeleton, streams), plan.layers[index])
        elif streams is not None:
            streams.pass_by(index, model.load(index), known[0])
    progress("prune", len(model), len(model))


def _sliced(dense: LayerView, index: int, cut: HiddenCut, skeleton: Skeleton, streams: Streams | None) -> LayerView:
    if streams is None:
        slice_layer(dense, cut)
        return skeleton.block(index, dict(dense.module.named_parameters()))
    layer = LayerView(copy.deepcopy(dense.module))
    slice_layer(layer, cut)
    layer = skeleton.block(index, dict(layer.module.named_parameters()))
    _repair(streams, index, dense, layer, cut.dtype)
    return layer


def _repair(streams: Streams, index: int, dense: LayerView, layer: LayerView, dtype: torch.dtype) -> None:
    for unit in WIDTH_UNITS:
        if not layer.has(unit):
            continue
        statistics = streams.observe(index, layer, unit, dense)
        consumer = layer.group(unit).consumer
        refit_consumer(consumer, statistics, torch.arange(consumer.weight.shape[1]))
        consumer.weight = nn.Parameter(consumer.weight.to(dtype).float(), requires_grad=False)
        streams.pruned.move(index, layer, unit)
