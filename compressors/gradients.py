"""The language-model loss's gradient for every block's weights, with one block in memory.

A forward pass keeps the hidden states in front of every block. The way back visits the blocks from the last to the
first: each is run again with gradients on, takes the gradient of its output and leaves that of its input, and is ranked
while its weights' gradients are there. The result is the exact gradient of the whole dense model.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from artifacts.progress import Progress
from compressors.arch import WIDTH_UNITS, Half, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.plan import Ranking
from compressors.registry import Method, WidthEvidence
from compressors.streams import first_states, hidden_states


def gradient_rankings(
    model: BlockModel, method: Method, units: tuple[WidthUnit, ...], windows: Tensor, seed: int, progress: Progress
) -> dict[Half, Ranking]:
    """The method's ranking of every half layer, on the mean next-token loss over the windows [N, T] of token ids."""
    assert method.rank_width is not None
    rankings: dict[Half, Ranking] = {}
    for index, layer in _blocks_with_gradients(model, windows):
        progress("gradients", len(model) - 1 - index, len(model))
        for unit in units:
            rankings[index, unit] = method.rank_width(method.config, _evidence(index, layer, unit, seed))
        del layer  # else the next block would be loaded beside this one and its gradients
    progress("gradients", len(model), len(model))
    return rankings


def _evidence(index: int, layer: LayerView, unit: WidthUnit, seed: int) -> WidthEvidence:
    group, random = layer.group(unit), Random(f"{seed}/{index}/{unit}")
    return WidthEvidence(group=group, statistics=None, most_removed=group.count, random=random)


def _blocks_with_gradients(model: BlockModel, windows: Tensor) -> Iterator[tuple[int, LayerView]]:
    """The blocks from the last to the first, every weight with its `.grad`."""
    with torch.no_grad():
        *inputs, last = hidden_states(model, windows)
    course = first_states(model, windows)
    behind = torch.empty_like(last)
    for piece in course.pieces():
        behind[piece] = _loss_gradient(model, last[piece], windows[piece], windows[:, 1:].numel())
    for index in reversed(range(len(model))):
        layer = model.load(index)
        layer.module.requires_grad_(True)
        for piece in course.pieces():
            behind[piece] = _run_back(layer, inputs[index][piece], behind[piece], course.arguments[index], model.device)
        yield index, layer
        inputs.pop()
        del layer


def _loss_gradient(model: BlockModel, states: Tensor, ids: Tensor, predicted_tokens: int) -> Tensor:
    """Gradient of the mean next-token loss by the states [N, T, D] behind the last block."""
    with torch.enable_grad():
        leaf = states.to(model.device).requires_grad_(True)
        logits = model.logits(leaf)[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten().to(model.device)
        loss = functional.cross_entropy(logits, targets, reduction="sum") / predicted_tokens
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.to("cpu")


def _run_back(
    layer: LayerView, states: Tensor, behind: Tensor, arguments: dict[str, object], device: torch.device
) -> Tensor:
    """Adds to the weights' gradients; returns the gradient by the block's input."""
    with torch.enable_grad():
        leaf = states.to(device).clone().requires_grad_(True)
        output = leaf
        for unit in WIDTH_UNITS:
            output = layer.run(unit, output, arguments)
        output.backward(behind.to(device))
    assert leaf.grad is not None
    return leaf.grad.to("cpu")
