"""The calibration hidden states on their way through the model, half a layer at a time, in two streams.

The *pruned* stream is what each layer of the finished variant will really receive; the *dense* stream is what the
unpruned model would have computed. Repair needs both: it fits on the first so that it returns to the second. Only these
hidden states grow with the calibration set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from compressors.arch import WIDTH_UNITS, LayerView, ModelView, WidthUnit
from compressors.statistics import ConsumerStatistics

_BATCH_TOKENS = 4096


class Capture:
    """The last value that a hook saw."""

    value: Tensor


class Streams:
    """Hidden states [windows, tokens, hidden] in front of the next half layer. Moved forward in place."""

    def __init__(self, view: ModelView, windows: Tensor, *, keep_dense: bool) -> None:
        self._arguments = layer_arguments(view, windows[:1])
        self.pruned: Tensor = view.model.model.embed_tokens(windows)
        self.dense: Tensor | None = self.pruned.clone() if keep_dense else None
        self._batch = max(1, _BATCH_TOKENS // windows.shape[1])

    def observe(self, index: int, layer: LayerView, unit: WidthUnit) -> ConsumerStatistics:
        """Statistics of the consumer of `unit` on the pruned stream. Call before cutting; moves the dense stream.

        The residual stream behind the unit is what stood in front of it plus the consumer's output (and bias). The
        wanted output is therefore what leads from the pruned stream in front to the dense stream behind.
        """
        consumer = layer.group(unit).consumer
        rows, columns = consumer.weight.shape
        full = self.dense is not None
        if self.dense is not None:
            self._move(self.dense, index, layer, unit)
        statistics = ConsumerStatistics(columns, rows, full=full, device=consumer.weight.device)
        for piece in self._pieces():
            before = self.pruned[piece]
            with captured_input(consumer) as inputs:
                layer.run(unit, before, self._arguments[index])
            wanted = None if self.dense is None else self.dense[piece] - before - _bias(consumer)
            statistics.add(inputs.value, wanted)
        return statistics

    def follow(self, index: int, layer: LayerView, unit: WidthUnit) -> None:
        """Moves the pruned stream behind a unit that was observed and may have been cut since."""
        self._move(self.pruned, index, layer, unit)

    def advance(self, index: int, layer: LayerView, unit: WidthUnit) -> None:
        """Moves both streams behind a unit that stays as it is."""
        self._move(self.pruned, index, layer, unit)
        if self.dense is not None:
            self._move(self.dense, index, layer, unit)

    def _move(self, states: Tensor, index: int, layer: LayerView, unit: WidthUnit) -> None:
        for piece in self._pieces():
            states[piece] = layer.run(unit, states[piece], self._arguments[index])

    def _pieces(self) -> Iterator[slice]:
        for start in range(0, len(self.pruned), self._batch):
            yield slice(start, start + self._batch)


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


def hidden_states(view: ModelView, windows: Tensor) -> Iterator[Tensor]:
    """The dense hidden states [windows, tokens, hidden] before layer 0, after it, ... after the last."""
    streams = Streams(view, windows, keep_dense=False)
    yield streams.pruned
    for index, layer in enumerate(view.layers):
        streams.pruned = streams.pruned.clone()
        for unit in WIDTH_UNITS:
            streams.advance(index, layer, unit)
        yield streams.pruned


def _bias(linear: nn.Linear) -> Tensor | float:
    return 0.0 if linear.bias is None else linear.bias


def layer_arguments(view: ModelView, window: Tensor) -> list[dict[str, Any]]:
    """The keyword arguments (mask, rotary embeddings, positions) each layer is called with for a window of this length.

    Taken from a real forward pass: masks differ between families and layer types, and all windows are equally long.
    """
    seen: list[dict[str, Any]] = []

    def keep(_module: nn.Module, _positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(named)

    handles = [layer.module.register_forward_pre_hook(keep, with_kwargs=True) for layer in view.layers]
    try:
        view.model.model(input_ids=window, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
