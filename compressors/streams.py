"""The calibration hidden states on their way through the model, one layer at a time, in two streams.

The *pruned* stream is what each layer of the finished variant will really receive; the *dense* stream is what the
unpruned model would have computed. Repair needs both: it fits the first so that it returns to the second. Only these
hidden states grow with the calibration set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from compressors.arch import LayerView, ModelView, WidthUnit
from compressors.statistics import ConsumerStatistics

_BATCH_TOKENS = 4096


class Capture:
    """The last value that a hook saw."""

    value: Tensor


class Streams:
    """Hidden states [windows, tokens, hidden] before the current layer, and the arguments that layers get."""

    def __init__(self, view: ModelView, windows: Tensor, *, keep_dense: bool) -> None:
        self._arguments = _layer_arguments(view, windows[:1])
        self.pruned: Tensor = view.model.model.embed_tokens(windows)
        self.dense: Tensor | None = self.pruned.clone() if keep_dense else None
        self._batch = max(1, _BATCH_TOKENS // windows.shape[1])

    def observe(
        self, index: int, layer: LayerView, dense_layer: LayerView | None, unit: WidthUnit
    ) -> ConsumerStatistics:
        """Statistics of the consumer of `unit`, on the pruned stream through `layer` as it is now.

        With a dense stream, the wanted output is W X + (dense residual after the unit - pruned residual after it): what
        the consumer must add so that the residual stream is the dense one again.
        """
        group = layer.group(unit)
        rows, columns = group.consumer.weight.shape
        full = self.dense is not None and dense_layer is not None
        statistics = ConsumerStatistics(columns, rows, full=full, device=group.consumer.weight.device)
        for start in range(0, len(self.pruned), self._batch):
            inputs, after = self._observe_batch(index, layer, unit, self.pruned[start : start + self._batch])
            wanted = None
            if self.dense is not None and dense_layer is not None:
                _, dense_after = self._observe_batch(index, dense_layer, unit, self.dense[start : start + self._batch])
                wanted = inputs @ group.consumer.weight.T + (dense_after - after)
            statistics.add(inputs, wanted)
        return statistics

    def advance(self, index: int, layer: LayerView, dense_layer: LayerView | None) -> None:
        """Moves both streams behind the layer."""
        self._advance(index, layer, self.pruned)
        if self.dense is not None and dense_layer is not None:
            self._advance(index, dense_layer, self.dense)

    def _advance(self, index: int, layer: LayerView, states: Tensor) -> None:
        for start in range(0, len(states), self._batch):
            piece = slice(start, start + self._batch)
            states[piece] = layer.module(states[piece], **self._arguments[index])

    def _observe_batch(self, index: int, layer: LayerView, unit: WidthUnit, states: Tensor) -> tuple[Tensor, Tensor]:
        """Consumer inputs and the residual stream after the unit."""
        consumer = layer.group(unit).consumer
        norm = layer.module.post_attention_layernorm
        with captured_input(consumer) as inputs, captured_input(norm) as middle:
            output: Tensor = layer.module(states, **self._arguments[index])
        return inputs.value, middle.value if unit == "kv" else output


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
        streams.advance(index, layer, None)
        yield streams.pruned


def _layer_arguments(view: ModelView, window: Tensor) -> list[dict[str, Any]]:
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
