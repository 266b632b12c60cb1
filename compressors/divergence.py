"""How far candidates move from the dense model: KL divergence on calibration windows, many candidates in one pass.

A candidate is an allocation: how many units every half layer keeps. Blocks are visited once for all candidates of a
call, and candidates that agree up to a half share its hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressors.arch import WIDTH_UNITS, LayerView, WidthUnit
from compressors.blocks import BlockModel
from compressors.levels import LevelSource, WholeHalves
from compressors.plan import Allocation
from compressors.streams import hidden_states, piece_tokens

# Hidden states of all candidates of a pass together stay below this.
STATES_BYTES = 1 << 29
_LOGIT_TOKENS = 2048
_LOGIT_ELEMENTS = 1 << 25

Prefix = tuple[int, ...]


def logit_tokens(vocabulary: int) -> int:
    """How many tokens become logits at once: fewer where the vocabulary is large."""
    return max(1, min(_LOGIT_TOKENS, _LOGIT_ELEMENTS // vocabulary))


class DivergenceBench:
    """Judges candidates on the windows [N, T] of token ids against the dense model's predictions on them."""

    def __init__(self, model: BlockModel, windows: Tensor) -> None:
        self._model = model
        self._embedded = model.embed(windows)
        self._arguments = model.arguments(windows.shape[1])
        self._dense = self._embedded
        for self._dense in hidden_states(model, windows):
            pass

    @property
    def tokens(self) -> int:
        """How many tokens all windows hold."""
        return int(self._embedded.shape[0] * self._embedded.shape[1])

    def divergences(
        self, candidates: Sequence[Allocation], levels: LevelSource | None = None, max_tokens: int | None = None
    ) -> list[float]:
        """Mean KL(dense || candidate) in nats per token, in the order given.

        `levels` None is for candidates whose halves are whole or absent. Only the first windows are used that hold
        `max_tokens` tokens, at least one.
        """
        length = self._embedded.shape[1]
        windows = len(self._embedded) if max_tokens is None else max(1, min(len(self._embedded), max_tokens // length))
        unique = list(dict.fromkeys(candidates))
        size = windows * length * self._embedded.shape[2] * self._embedded.element_size()
        together = max(1, int(STATES_BYTES // size))
        found: dict[Allocation, float] = {}
        for start in range(0, len(unique), together):
            lot = unique[start : start + together]
            found |= dict(zip(lot, self._lot(lot, levels or WholeHalves(), windows), strict=True))
        return [found[candidate] for candidate in candidates]

    @torch.no_grad()
    def _lot(self, candidates: list[Allocation], levels: LevelSource, windows: int) -> list[float]:
        states: dict[Prefix, Tensor] = {(): self._embedded[:windows].to(self._model.device)}
        prefixes: list[Prefix] = [()] * len(candidates)
        for index in range(len(self._model)):
            layer = self._model.load(index)
            for unit in WIDTH_UNITS:
                longer = [
                    (*prefix, candidate[index].count(unit))
                    for prefix, candidate in zip(prefixes, candidates, strict=True)
                ]
                cut = {count: levels.at(index, layer, unit, count) for count in {prefix[-1] for prefix in longer}}
                states = {
                    prefix: self._behind(cut[prefix[-1]], index, unit, states[prefix[:-1]])
                    for prefix in dict.fromkeys(longer)
                }
                prefixes = longer
            del layer, cut
        divergences = self._against_dense(states, windows)
        return [divergences[prefix] for prefix in prefixes]

    def _behind(self, layer: LayerView, index: int, unit: WidthUnit, states: Tensor) -> Tensor:
        """States behind a half layer, some windows at a time: its intermediate values are wider than they are."""
        if not layer.has(unit):
            return states
        moved = torch.empty_like(states)
        windows = max(1, piece_tokens(int(self._model.config.intermediate_size)) // states.shape[1])
        for start in range(0, len(states), windows):
            piece = slice(start, start + windows)
            moved[piece] = layer.run(unit, states[piece], self._arguments[index])
        return moved

    def _against_dense(self, states: dict[Prefix, Tensor], windows: int) -> dict[Prefix, float]:
        sums = dict.fromkeys(states, 0.0)
        dense = self._dense[:windows].flatten(0, 1)
        tokens = logit_tokens(int(self._model.config.vocab_size))
        for start in range(0, len(dense), tokens):
            piece = slice(start, start + tokens)
            wanted = self._log_probs(dense[piece])
            for prefix, ends in states.items():
                given = self._log_probs(ends.flatten(0, 1)[piece])
                sums[prefix] += float(wanted.exp().mul_(wanted - given).sum(dtype=torch.float64))
        return {prefix: total / len(dense) for prefix, total in sums.items()}

    def _log_probs(self, states: Tensor) -> Tensor:
        return self._model.logits(states).log_softmax(dim=-1)
