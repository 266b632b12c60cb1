"""The calibration hidden states on their way through the model, half a layer at a time, in two streams.

The *pruned* stream is what each layer of the finished variant will really receive; the *dense* stream is what the
unpruned model would have computed. Repair needs both: it fits on the first so that it returns to the second. Only these
hidden states grow with the calibration set; they live in host memory or in files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressors.arch import WIDTH_UNITS, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.statistics import ConsumerStatistics

# A piece of this many tokens at most runs through a layer at once, fewer where the layer is wide.
_PIECE_TOKENS = 4096
_PIECE_ELEMENTS = 1 << 22


class Capture:
    """The last value that a hook saw."""

    value: Tensor


def piece_tokens(widest: int) -> int:
    """How many tokens go through a half layer of this width at once, unless one window is longer."""
    return max(1, min(_PIECE_TOKENS, _PIECE_ELEMENTS // widest))


class HiddenStates:
    """States [N, T, D] in front of the next half layer, float32 on the CPU. Moved forward in place."""

    def __init__(self, states: Tensor, arguments: list[dict[str, Any]], device: torch.device, widest: int) -> None:
        """`widest` is the most elements per token that a half layer computes at once: its FFN width."""
        self.states = states
        self.arguments = arguments
        self.device = device
        self._windows = max(1, piece_tokens(widest) // states.shape[1])

    def move(self, index: int, layer: LayerView, unit: WidthUnit) -> None:
        if layer.has(unit):
            for piece in self.pieces():
                self.states[piece] = layer.run(unit, self.at(piece), self.arguments[index]).to("cpu")

    def move_through(self, index: int, layer: LayerView) -> None:
        for unit in WIDTH_UNITS:
            self.move(index, layer, unit)

    def at(self, piece: slice) -> Tensor:
        """Some windows' states on the device that computes."""
        return self.states[piece].to(self.device)

    def pieces(self) -> Iterator[slice]:
        for start in range(0, len(self.states), self._windows):
            yield slice(start, start + self._windows)


def first_states(model: BlockModel, windows: Tensor) -> HiddenStates:
    """The embedded windows [N, T] of token ids, in front of the first block."""
    return HiddenStates(model.embed(windows), model.arguments(windows.shape[1]), model.device, _widest(model))


class Streams:
    """Both streams. `folder` None keeps them in memory, else they are files there that the kernel may page out.

    Behind the FFNs of the blocks in `guides` a repair returns to what stands there, instead of to the dense stream.
    """

    def __init__(
        self,
        model: BlockModel,
        windows: Tensor,
        *,
        keep_dense: bool,
        folder: Path | None = None,
        basis: Tensor | None = None,
    ) -> None:
        """`basis` [D, k] makes the pruned stream one of k directions of the dense one."""
        self.folder = folder
        embedded, arguments = model.embed(windows), model.arguments(windows.shape[1])
        rest = (arguments, model.device, _widest(model))
        narrow = embedded if basis is None else embedded @ basis.cpu()
        self.pruned = HiddenStates(_placed(narrow, folder, "pruned"), *rest)
        self.dense = HiddenStates(_placed(embedded.clone(), folder, "dense"), *rest) if keep_dense else None
        self._basis = basis
        self.guides: dict[int, Tensor] = {}

    def place(self, name: str, states: Tensor) -> Tensor:
        """A copy of states, where the streams are."""
        return states.clone() if self.folder is None else _placed(states, self.folder, name)

    def observe(
        self, index: int, layer: LayerView, unit: WidthUnit, dense_layer: LayerView | None = None
    ) -> ConsumerStatistics:
        """Statistics of the consumer of `unit` on the pruned stream. Call before cutting; moves the dense stream.

        The residual stream behind the unit is what stood in front of it plus the consumer's output (and bias). The
        wanted output is therefore what leads from the pruned stream in front to the dense stream behind. `dense_layer`
        moves the dense stream where `layer` itself no longer can.
        """
        consumer = layer.group(unit).consumer
        rows, columns = consumer.weight.shape
        if self.dense is not None:
            self.dense.move(index, dense_layer or layer, unit)
        statistics = ConsumerStatistics(columns, rows, full=self.dense is not None, device=consumer.weight.device)
        for piece in self.pruned.pieces():
            before = self.pruned.at(piece)
            with captured_input(consumer) as inputs:
                layer.run(unit, before, self.pruned.arguments[index])
            wanted = None if self.dense is None else self._target(index, unit, piece) - before - output_bias(consumer)
            statistics.add(inputs.value, wanted)
        return statistics

    def target(self, index: int, unit: WidthUnit) -> Tensor:
        """Where the pruned stream is to be behind a half layer, once the dense one is behind it [N, T, D]."""
        assert self.dense is not None
        return self.guides[index] if unit == "ffn" and index in self.guides else self.dense.states

    def _target(self, index: int, unit: WidthUnit, piece: slice) -> Tensor:
        """The same on the device that computes, in the pruned stream's directions."""
        states = self.target(index, unit)[piece].to(self.pruned.device)
        return states if self._basis is None else states @ self._basis

    def pass_by(self, index: int, dense_layer: LayerView, layer: LayerView) -> None:
        """Moves each stream behind a layer of its own that is finished."""
        self.pruned.move_through(index, layer)
        if self.dense is not None:
            self.dense.move_through(index, dense_layer)

    def advance(self, index: int, layer: LayerView, unit: WidthUnit) -> None:
        """Moves both streams behind a unit that stays as it is."""
        self.pruned.move(index, layer, unit)
        self.skip(index, layer, unit)

    def skip(self, index: int, layer: LayerView, unit: WidthUnit) -> None:
        """Moves only the dense stream: the pruned one passes by a half that will not be there."""
        if self.dense is not None:
            self.dense.move(index, layer, unit)


@contextmanager
def captured_input(module: nn.Module) -> Iterator[Capture]:
    """Yields a capture of the module's first positional argument."""
    capture = Capture()

    def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        capture.value = arguments[0]

    handle = module.register_forward_pre_hook(keep)
    try:
        yield capture
    finally:
        handle.remove()


def hidden_states(model: BlockModel, windows: Tensor) -> Iterator[Tensor]:
    """The dense hidden states [N, T, D] before block 0, after it, ... after the last; each a tensor of its own."""
    course = first_states(model, windows)
    yield course.states.clone()
    for index in range(len(model)):
        course.move_through(index, model.load(index))
        yield course.states.clone()


def half_states(model: BlockModel, windows: Tensor) -> Iterator[Tensor]:
    """The same, also between the attention and the FFN of every block."""
    course = first_states(model, windows)
    yield course.states.clone()
    for index in range(len(model)):
        layer = model.load(index)
        for unit in WIDTH_UNITS:
            course.move(index, layer, unit)
            yield course.states.clone()
        del layer


def room(shape: tuple[int, ...], folder: Path | None, name: str) -> Tensor:
    """Uninitialised float32 values in host memory, or in a file of the folder that the kernel may page out."""
    if folder is None:
        return torch.empty(shape)
    path = folder / f"{name}.states"
    path.unlink(missing_ok=True)
    return torch.from_file(str(path), shared=True, size=prod(shape), dtype=torch.float32).view(shape)


def _placed(states: Tensor, folder: Path | None, name: str) -> Tensor:
    return states if folder is None else room(tuple(states.shape), folder, name).copy_(states)


def _widest(model: BlockModel) -> int:
    return int(model.config.intermediate_size)


def output_bias(linear: nn.Linear) -> Tensor | float:
    """What it adds to every output."""
    return 0.0 if linear.bias is None else linear.bias
