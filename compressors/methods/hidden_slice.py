"""Hidden slicing: the residual stream is turned into its principal directions, and the weakest are left out everywhere.

With one rotation for the whole model every matrix that reads or writes the stream takes it up, so that the result is
a stock model of a smaller hidden size. A rotation per layer would lose less, but has to be undone between layers by
matrices that no stock class has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.registry import Method

_PIECE_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenSliceConfig:
    """No knobs."""


def find_basis(config: HiddenSliceConfig, states: Iterator[Tensor]) -> Tensor:
    """[D, D] orthonormal columns, the most important direction first, float64.

    They are the eigenvectors of the pooled second moment of everything that any half layer or the head reads. Each
    token counts in units of its own length, because that is how the norm in front of every reader sees it.
    """
    moment: Tensor | None = None
    for state in states:
        for piece in state.flatten(0, 1).split(_PIECE_TOKENS):
            tokens = torch.nn.functional.normalize(piece, dim=-1)
            product = (tokens.T @ tokens).double()
            moment = product if moment is None else moment.add_(product)
    assert moment is not None
    _, vectors = torch.linalg.eigh(moment)
    return vectors.flip(1)


METHOD = Method(
    name="hidden_slice",
    config=HiddenSliceConfig(),
    units=("hidden",),
    needs="energy",
    paper="Ashkboos et al., SliceGPT (arXiv 2401.15024), with one rotation for all layers",
    find_basis=find_basis,
    survey="basis",
)
