"""Masking in order: zeros for single weights of each layer, on what the already masked layers before it really give.

No shape changes, so every unit stays in its place. As in the authors' code of Wanda and SparseGPT, one pass through the
layer as it still is tells what each of its matrices reads; a method that masks an FFN whole looks behind the masked
attention instead. One block is in memory at a time, and what is stored is rounded before the stream moves on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from artifacts.progress import Progress
from compressors.arch import WIDTH_UNITS, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.mask_evidence import FfnEvidence, MatrixEvidence
from compressors.masks import Pattern
from compressors.plan import Plan
from compressors.registry import Method
from compressors.sequential import BlockSink
from compressors.statistics import ConsumerStatistics
from compressors.streams import HiddenStates, Streams, captured_input, room

# What a matrix of a half layer reads: the normed residual stream, or what the half layer makes of it.
Reader = Literal["stream", "units"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingJob:
    """Everything that decides the masks besides the model and the calibration windows.

    `folder` takes what a method remembers of every token, None keeps it in host memory.
    """

    method: Method
    pattern: Pattern
    dtype: torch.dtype = torch.float32
    folder: Path | None = None


def mask_blocks(
    model: BlockModel, job: MaskingJob, windows: Tensor | None, plan: Plan, sink: BlockSink, progress: Progress
) -> None:
    """Hands every block to the sink. `plan` names all that the model has, `windows` [N, T] are the calibration ids.

    Blocks that the sink already has are not made again, but the stream passes through them.
    """
    states = None
    if windows is not None and job.method.needs_calibration:
        states = Streams(model, windows, keep_dense=False, folder=job.folder).pruned
    for index, kept in enumerate(plan.layers):
        progress("prune", index, len(model))
        known = sink.finished(index)
        if known is None:
            layer = model.load(index)
            _mask_layer(index, layer, job, states)
            sink.keep(index, layer, kept)
        elif states is not None:
            states.move_through(index, known[0])
    progress("prune", len(model), len(model))


def _mask_layer(index: int, layer: LayerView, job: MaskingJob, states: HiddenStates | None) -> None:
    """Masks a layer and moves the stream behind it."""
    masked = [unit for unit in WIDTH_UNITS if layer.has(unit) and job.pattern.share > 0]
    alone = [unit for unit in masked if not _masks_whole(job, unit)]
    sums = {} if states is None else _observed(index, layer, alone, job, states)
    for unit in WIDTH_UNITS:
        if unit in alone:
            for reader, linears in _readers(layer, unit).items():
                _mask_matrices(linears, sums.get((unit, reader)), job)
        elif unit in masked and states is not None:
            _mask_ffn(layer, job, states)
        if states is not None:
            states.move(index, layer, unit)


def _masks_whole(job: MaskingJob, unit: WidthUnit) -> bool:
    return unit == "ffn" and job.method.mask_ffn is not None


def _readers(layer: LayerView, unit: WidthUnit) -> dict[Reader, list[nn.Linear]]:
    """The matrices of a half layer by what they read."""
    group = layer.group(unit)
    return {"stream": [producer.linear for producer in group.producers], "units": [group.consumer]}


def _mask_matrices(linears: Sequence[nn.Linear], statistics: ConsumerStatistics | None, job: MaskingJob) -> None:
    assert job.method.mask_matrices is not None
    weights = tuple(linear.weight.detach() for linear in linears)
    evidence = MatrixEvidence(weights=weights, pattern=job.pattern, statistics=statistics)
    _put(linears, job.method.mask_matrices(job.method.config, evidence), job.dtype)


def _mask_ffn(layer: LayerView, job: MaskingJob, states: HiddenStates) -> None:
    assert job.method.mask_ffn is not None
    linears = [linear for readers in _readers(layer, "ffn").values() for linear in readers]
    _put(linears, job.method.mask_ffn(job.method.config, _ffn_evidence(layer, job, states)), job.dtype)


def _put(linears: Sequence[nn.Linear], weights: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for linear, weight in zip(linears, weights, strict=True):
        linear.weight = nn.Parameter(weight.to(dtype).float(), requires_grad=False)


def _observed(
    index: int, layer: LayerView, units: Sequence[WidthUnit], job: MaskingJob, states: HiddenStates
) -> dict[tuple[WidthUnit, Reader], ConsumerStatistics]:
    """Sums over what the matrices of some half layers read, in one pass through the layer as it still is."""
    sums = {
        (unit, reader): _empty_sums(linears[0], job)
        for unit in units
        for reader, linears in _readers(layer, unit).items()
    }
    for piece in states.pieces():
        before = states.at(piece)
        for unit in units:
            sums[unit, "stream"].add(layer.norm(unit)(before))
            with captured_input(layer.group(unit).consumer) as inputs:
                before = layer.run(unit, before, states.arguments[index])
            sums[unit, "units"].add(inputs.value)
    return sums


def _empty_sums(linear: nn.Linear, job: MaskingJob) -> ConsumerStatistics:
    columns = linear.weight.shape[1]
    return ConsumerStatistics(columns, 0, full=job.method.needs == "gram", device=linear.weight.device)


def _ffn_evidence(layer: LayerView, job: MaskingJob, states: HiddenStates) -> FfnEvidence:
    windows, tokens, _ = states.states.shape

    def pieces() -> Iterator[tuple[slice, Tensor]]:
        for piece in states.pieces():
            first, last, _ = piece.indices(windows)
            yield slice(first * tokens, last * tokens), layer.norm("ffn")(states.at(piece)).flatten(0, 1)

    def room_of(name: str, columns: int) -> Tensor:
        return room((windows * tokens, columns), job.folder, name)

    return FfnEvidence(layer=layer, pattern=job.pattern, pieces=pieces, room=room_of)
