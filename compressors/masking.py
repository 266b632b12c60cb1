"""Masking in order: zeros for the single weights of each layer, on what the already masked layers before it really give.

No shape changes, so every unit stays in its place. A half layer is masked in the order in which it computes: the matrices
that read the stream, then the one that writes to it, on the inputs that the former now give. One block is in memory at a
time, and what is stored is rounded before the stream moves on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from artifacts.progress import Progress
from compressors.arch import WIDTH_UNITS, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.mask_evidence import FfnEvidence, MatrixEvidence
from compressors.masks import Pattern
from compressors.plan import LayerPlan, Plan
from compressors.registry import Method
from compressors.sequential import BlockSink
from compressors.statistics import ConsumerStatistics
from compressors.streams import HiddenStates, Streams, captured_input, room


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
            for unit in WIDTH_UNITS:
                _mask_half(index, layer, unit, job, states)
            sink.keep(index, layer, kept)
        elif states is not None:
            states.move_through(index, known[0])
    progress("prune", len(model), len(model))


def _mask_half(index: int, layer: LayerView, unit: WidthUnit, job: MaskingJob, states: HiddenStates | None) -> None:
    """Masks one half of a layer and moves the stream behind it."""
    if layer.has(unit) and job.pattern.share > 0:
        group = layer.group(unit)
        producers = [producer.linear for producer in group.producers]
        if unit == "ffn" and job.method.mask_ffn is not None and states is not None:
            evidence = _ffn_evidence(layer, job, states)
            _put([*producers, group.consumer], job.method.mask_ffn(job.method.config, evidence), job.dtype)
        else:
            for linears in (producers, [group.consumer]):
                inputs = None if states is None else _inputs(index, layer, unit, linears[0], states)
                _mask_matrices(linears, inputs, job)
    if states is not None:
        states.move(index, layer, unit)


def _mask_matrices(linears: Sequence[nn.Linear], inputs: Iterator[Tensor] | None, job: MaskingJob) -> None:
    assert job.method.mask_matrices is not None
    statistics = None if inputs is None else _sums(inputs, linears[0], job)
    weights = tuple(linear.weight.detach() for linear in linears)
    evidence = MatrixEvidence(weights=weights, pattern=job.pattern, statistics=statistics)
    _put(linears, job.method.mask_matrices(job.method.config, evidence), job.dtype)


def _put(linears: Sequence[nn.Linear], weights: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for linear, weight in zip(linears, weights, strict=True):
        linear.weight = nn.Parameter(weight.to(dtype).float(), requires_grad=False)


def _inputs(index: int, layer: LayerView, unit: WidthUnit, reader: nn.Linear, states: HiddenStates) -> Iterator[Tensor]:
    """What a matrix reads, piece by piece: the normed stream, or what the half layer makes of it on the way."""
    is_consumer = reader is layer.group(unit).consumer
    for piece in states.pieces():
        before = states.at(piece)
        if not is_consumer:
            yield layer.norm(unit)(before)
            continue
        with captured_input(reader) as inputs:
            layer.run(unit, before, states.arguments[index])
        yield inputs.value


def _sums(inputs: Iterator[Tensor], reader: nn.Linear, job: MaskingJob) -> ConsumerStatistics:
    columns = reader.weight.shape[1]
    statistics = ConsumerStatistics(columns, 0, full=job.method.needs == "gram", device=reader.weight.device)
    for each in inputs:
        statistics.add(each)
    return statistics


def _ffn_evidence(layer: LayerView, job: MaskingJob, states: HiddenStates) -> FfnEvidence:
    windows, tokens, _ = states.states.shape

    def pieces() -> Iterator[tuple[slice, Tensor]]:
        for piece in states.pieces():
            first, last, _ = piece.indices(windows)
            yield slice(first * tokens, last * tokens), layer.norm("ffn")(states.at(piece)).flatten(0, 1)

    def room_of(name: str, columns: int) -> Tensor:
        return room((windows * tokens, columns), job.folder, name)

    return FfnEvidence(layer=layer, pattern=job.pattern, pieces=pieces, room=room_of)
