"""The language-model loss of a model under many masks at once, in forward passes alone.

Masks multiply what the consumers read, through hooks: no weight is copied or changed, and what a mask leaves is what
surgery would leave. A half of which nothing is left writes nothing, not even its bias, as a half that was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressors.arch import WIDTH_UNITS, Half, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.divergence import logit_tokens
from compressors.streams import piece_tokens

# By half layer [count, its units], or [count, 1] for the half as a whole.
HalfMasks = Mapping[Half, Tensor]


@contextmanager
def masked(layer: LayerView, unit: WidthUnit, mask: Tensor) -> Iterator[None]:
    """Inside, row n of what the half's consumer reads is multiplied by `mask` [rows, units or 1]."""
    group = layer.group(unit)
    units = mask.expand(len(mask), group.count)
    columns = units.repeat_interleave(group.columns_per_unit, dim=1)[:, None, :]
    present = units.any(dim=1).to(mask.dtype)[:, None, None]

    def cut(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0] * columns,)

    def silence(_module: nn.Module, _arguments: tuple[Tensor, ...], written: Tensor) -> Tensor:
        return written * present

    handles = [group.consumer.register_forward_pre_hook(cut)]
    if group.consumer.bias is not None:
        handles.append(group.consumer.register_forward_hook(silence))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLoss:
    """Mean next-token loss on `batch` of the windows [N, T], others in every step, decided by the seed and the step.

    `spread` turns masks [count, units] into those of each half. `embedded` are the windows' states in front of the
    first block, `layers` the model's blocks where memory holds them all; without, each is loaded when its turn comes.
    """

    model: BlockModel
    windows: Tensor
    embedded: Tensor
    arguments: list[dict[str, Any]]
    spread: Callable[[Tensor], HalfMasks]
    batch: int
    seed: int
    layers: tuple[LayerView, ...] | None = None

    @classmethod
    def on(
        cls,
        model: BlockModel,
        windows: Tensor,
        spread: Callable[[Tensor], HalfMasks],
        *,
        batch_tokens: int,
        seed: int,
        resident: bool,
    ) -> MaskedLoss:
        """`batch_tokens` are at least one window and at most all; `resident` keeps the blocks in memory."""
        return cls(
            model=model,
            windows=windows,
            embedded=model.embed(windows),
            arguments=model.arguments(windows.shape[1]),
            spread=spread,
            batch=min(len(windows), max(1, batch_tokens // windows.shape[1])),
            seed=seed,
            layers=tuple(model.load(index) for index in range(len(model))) if resident else None,
        )

    def losses(self, masks: Tensor, step: int) -> Tensor:
        return self.losses_on(masks, Random(f"{self.seed}/windows/{step}").sample(range(len(self.windows)), self.batch))

    @torch.inference_mode()
    def losses_on(self, masks: Tensor, chosen: Sequence[int]) -> Tensor:
        """[count] nats per token on the chosen windows, float64."""
        halves = {half: each.float().to(self.model.device) for half, each in self.spread(masks).items()}
        ids = self.windows[chosen]
        states = self.embedded[chosen].to(self.model.device).repeat(len(masks), 1, 1)
        for index in range(len(self.model)):
            layer = self.model.load(index) if self.layers is None else self.layers[index]
            for unit in WIDTH_UNITS:
                if layer.has(unit):
                    states = self._behind(layer, unit, states, halves.get((index, unit)), self.arguments[index])
        return self._losses(states, ids, len(masks))

    def _behind(
        self, layer: LayerView, unit: WidthUnit, states: Tensor, mask: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor:
        moved = torch.empty_like(states)
        windows = max(1, piece_tokens(int(self.model.config.intermediate_size)) // states.shape[1])
        rows = None if mask is None else mask.repeat_interleave(len(states) // len(mask), dim=0)
        for start in range(0, len(states), windows):
            piece = slice(start, start + windows)
            if rows is None:
                moved[piece] = layer.run(unit, states[piece], arguments)
            else:
                with masked(layer, unit, rows[piece]):
                    moved[piece] = layer.run(unit, states[piece], arguments)
        return moved

    def _losses(self, states: Tensor, ids: Tensor, count: int) -> Tensor:
        ends = states[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten().to(ends.device).repeat(count)
        nats = torch.empty(len(ends), dtype=torch.float64)
        tokens = logit_tokens(int(self.model.config.vocab_size))
        for start in range(0, len(ends), tokens):
            piece = slice(start, start + tokens)
            logits = self.model.logits(ends[piece])
            nats[piece] = functional.cross_entropy(logits, targets[piece], reduction="none").double().cpu()
        return nats.view(count, -1).mean(dim=1)
