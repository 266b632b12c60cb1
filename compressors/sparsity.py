"""How many weights of a checkpoint are zero, counted in its files; shapes do not tell.

Counted are the matrices of the decoder blocks, which is what masking works on: no embedding, head, norm or bias.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from artifacts.errors import CheckpointError
from artifacts.variant import SparsityRef
from compressors.masks import UNSTRUCTURED, Pattern, parse_pattern
from compressors.shards import stored_tensors

_IN_A_BLOCK = re.compile(r"^model\.layers\.\d+\.")


def sparsity_of_folder(folder: Path, pattern: Pattern) -> SparsityRef:
    """Of a checkpoint that was masked by `pattern`. Raises CheckpointError if the files cannot be read."""
    zeros, weights = 0, 0
    for _, rows in _block_matrices(folder):
        zeros += int((rows == 0).sum())
        weights += rows.numel()
    return SparsityRef(pattern=pattern.name, asked=pattern.share, zeros=zeros, weights=weights)


def verify_sparsity(folder: Path, stated: SparsityRef | None) -> None:
    """Raises CheckpointError if the files hold other zeros than stated, or a group of n:m too few."""
    if stated is None:
        return
    pattern = parse_pattern(None if stated.pattern == UNSTRUCTURED else stated.pattern, stated.asked)
    found = sparsity_of_folder(folder, pattern)
    if found != stated:
        raise CheckpointError(f"{folder}: the files have {found}, variant.json says {stated}.")
    if pattern.group is None:
        return
    for name, rows in _block_matrices(folder):
        groups = (rows == 0).view(rows.shape[0], -1, pattern.group).sum(dim=-1)
        if int(groups.min()) < pattern.zeros:
            raise CheckpointError(f"{folder}: {name} has a group of {pattern.group} with {int(groups.min())} zeros.")


def _block_matrices(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Rows of every matrix in the blocks, some thousands at a time, with its name."""
    for name, stored in stored_tensors(folder).items():
        if _IN_A_BLOCK.match(name) and len(stored.header.shape) == 2:
            for rows in stored.row_pieces():
                yield name, rows
