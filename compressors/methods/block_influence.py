"""Block influence: a layer that hardly turns its hidden states can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compressors.plan import keep_highest
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInfluenceConfig:
    """No knobs."""


def block_influence(before: Tensor, after: Tensor) -> float:
    """1 - mean over tokens of cos(h_l, h_l+1), for hidden states [windows, tokens, hidden]. 0 for an identity layer."""
    return 1.0 - float(torch.nn.functional.cosine_similarity(before, after, dim=-1).double().mean())


def select(config: BlockInfluenceConfig, hidden_states: Iterator[Tensor], kept: int) -> tuple[int, ...]:
    return keep_highest([block_influence(before, after) for before, after in pairwise(hidden_states)], kept)


METHOD = Method(
    name="block_influence",
    config=BlockInfluenceConfig(),
    units=("layers",),
    needs="energy",
    paper="Men et al., ShortGPT (arXiv 2403.03853)",
    select_layers=select,
)
