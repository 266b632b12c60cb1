"""What a method gets to see that refits a cut half layer as a whole, and what it answers: which units, which weights.

Ranking looks at a consumer alone, and a repair refits it alone. A refining method sees the half layer's text once more
and may give new weights to the producers too. It is asked behind the ranking, so that searches over widths, which build
many levels of a half, do so by rankings; only what is written in the end is refined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressors.arch import LayerView, WidthUnit
from compressors.streams import Streams, captured_input, output_bias, room
from compressors.surgery import keep_units, unit_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfEvidence:
    """One half of `layer`, whole, which is only looked at; `count` of its units are to stay.

    `pieces()` passes once over the text, each piece with its place among all tokens: what an FFN's producers read
    [tokens, hidden], or what an attention's output projection reads [tokens, columns]. `wanted(tokens)` [tokens,
    hidden] is what the half is to write, without its bias, to lead back to the dense stream. `room(name, columns)`
    keeps float32 values of all `tokens`, in host memory or in a file.
    """

    layer: LayerView
    unit: WidthUnit
    count: int
    tokens: int
    pieces: Callable[[], Iterator[tuple[slice, Tensor]]]
    wanted: Callable[[slice], Tensor]
    room: Callable[[str, int], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """`kept` ascending units; new weights of the consumer, and of all producers or of none, in the shapes that they had
    before the cut. Only what belongs to `kept` is used.
    """

    kept: tuple[int, ...]
    consumer: Tensor
    producers: tuple[Tensor, ...] = ()


def half_evidence(index: int, layer: LayerView, unit: WidthUnit, count: int, streams: Streams) -> HalfEvidence:
    """On streams whose dense one is behind the half, the pruned one in front of it."""
    pruned, target, consumer = streams.pruned, streams.target(index, unit), layer.group(unit).consumer
    windows, length, hidden = pruned.states.shape

    def pieces() -> Iterator[tuple[slice, Tensor]]:
        for piece in pruned.pieces():
            first, last, _ = piece.indices(windows)
            before = pruned.at(piece)
            if unit == "ffn":
                read = layer.norm(unit)(before)
            else:
                with captured_input(consumer) as inputs:
                    layer.run(unit, before, pruned.arguments[index])
                read = inputs.value
            yield slice(first * length, last * length), read.flatten(0, 1)

    def wanted(tokens: slice) -> Tensor:
        behind, before = (
            states.view(-1, hidden)[tokens].to(consumer.weight.device) for states in (target, pruned.states)
        )
        return behind - before - output_bias(consumer)

    def room_of(name: str, columns: int) -> Tensor:
        return room((windows * length, columns), streams.folder, name)

    return HalfEvidence(
        layer=layer, unit=unit, count=count, tokens=windows * length, pieces=pieces, wanted=wanted, room=room_of
    )


def put_refined(layer: LayerView, unit: WidthUnit, refined: Refined, dtype: torch.dtype) -> None:
    """Cuts the half down to the units kept and gives it the new weights, rounded to what will be stored."""
    group = layer.group(unit)
    columns = unit_slots(refined.kept, group.columns_per_unit)
    keep_units(group, refined.kept)
    _put(group.consumer, refined.consumer[:, columns.to(refined.consumer.device)], dtype)
    for producer, weight in zip(group.producers[: len(refined.producers)], refined.producers, strict=True):
        _put(producer.linear, weight[unit_slots(refined.kept, producer.rows_per_unit).to(weight.device)], dtype)


def _put(linear: nn.Linear, weight: Tensor, dtype: torch.dtype) -> None:
    linear.weight = nn.Parameter(weight.to(dtype).float().contiguous(), requires_grad=False)
