"""Block influence: a layer, or a half of one, that hardly turns its hidden states can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compressors.depth import DEPTH_UNITS, DepthEvidence, DepthUnit, Protection, Removal
from compressors.plan import Allocation, rank_by_score
from compressors.registry import Method

# Every layer competes, as in the paper: influence is measured where a layer stands, the ends' included.
_NOTHING_SPARED = Protection(first=0, last=0)
_PIECE_WINDOWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInfluenceConfig:
    """No knobs."""


def block_influence(before: Tensor, after: Tensor) -> float:
    """1 - mean over tokens of cos(h_l, h_l+1), for hidden states [windows, tokens, hidden]. 0 for an identity layer."""
    pieces = zip(before.split(_PIECE_WINDOWS), after.split(_PIECE_WINDOWS), strict=True)
    cosines = torch.cat([torch.nn.functional.cosine_similarity(*pair, dim=-1) for pair in pieces])
    return 1.0 - float(cosines.double().mean())


def influences(states: Iterator[Tensor]) -> list[float]:
    """The influence of what stands between each pair of consecutive states."""
    return [block_influence(before, after) for before, after in pairwise(states)]


def select(config: BlockInfluenceConfig, evidence: DepthEvidence) -> Allocation:
    removals = [removal for kind in evidence.removed for removal in _lowest(kind, evidence)]
    return evidence.without(removals)


def _lowest(kind: DepthUnit, evidence: DepthEvidence) -> list[Removal]:
    """The removals of the least influence; of equal ones the later layer goes."""
    scores = _scores(kind, evidence)
    options = evidence.removable(kind, _NOTHING_SPARED)
    order = rank_by_score([scores[index] for _, index in options]).order
    return [options[place] for place in order[: evidence.removed[kind]]]


def _scores(kind: DepthUnit, evidence: DepthEvidence) -> list[float]:
    """By layer."""
    if kind == "layers":
        return influences(evidence.hidden_states())
    return influences(evidence.half_states())[kind == "ffn_sublayers" :: 2]


METHOD = Method(
    name="block_influence",
    config=BlockInfluenceConfig(),
    units=DEPTH_UNITS,
    needs="energy",
    paper="Men et al., ShortGPT (arXiv 2403.03853)",
    select_depth=select,
    survey="influence",
)
