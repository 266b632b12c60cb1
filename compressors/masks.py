"""Which single weights of a matrix become zero: exactly as many as were asked for, wherever their scores are lowest.

A share of weights is rounded once, over the whole matrix, and then dealt out: rows, or blocks of columns, get quotas
that differ by one and add up. With n:m every m consecutive weights of a row lose exactly n. Equal scores go in the
order of their places, so a mask is a function of the scores on every device.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from artifacts.errors import ConfigError

UNSTRUCTURED = "unstructured"
_SLACK = 0.005
_GROUPS = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The share of weights that become zero; with `group` it is that of every `group` consecutive weights of a row."""

    share: float
    group: int | None = None

    @property
    def name(self) -> str:
        return UNSTRUCTURED if self.group is None else f"{self.zeros}:{self.group}"

    @property
    def zeros(self) -> int:
        """How many of a group become zero."""
        assert self.group is not None
        return round(self.share * self.group)

    def quota(self, first: int, last: int) -> int:
        """How many of the weights with these places, last excluded, become zero; adjacent quotas add up exactly."""
        return _rounded(self.share * last) - _rounded(self.share * first)


def parse_pattern(text: str | None, ratio: float) -> Pattern:
    """'2:4' with a ratio of 0.5, or None for any ratio; a ratio of 0 needs no groups.

    Raises ConfigError if it is no pattern or contradicts the ratio.
    """
    if text is None:
        return Pattern(ratio)
    found = _GROUPS.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"pattern {text!r} is not n:m with n below m. Give n zeros in m weights, as in 2:4.")
    zeros, group = int(found[1]), int(found[2])
    if ratio == 0:
        return Pattern(ratio)
    if abs(ratio - zeros / group) > _SLACK:
        raise ConfigError(
            f"pattern {text} makes {zeros / group:g} of the weights zero, but ratio is {ratio:g}. "
            f"Give ratio {zeros / group:g}, or 0 for none."
        )
    return Pattern(zeros / group, group)


def lowest(scores: Tensor, count: int) -> Tensor:
    """A mask of the shape of `scores`, True at the `count` lowest."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(stable=True)[:count]] = True
    return mask.view(scores.shape)


def matrix_mask(scores: Tensor, pattern: Pattern) -> Tensor:
    """[rows, columns]: the lowest of the whole matrix, or of each group."""
    if pattern.group is not None:
        return group_mask(scores, pattern)
    return lowest(scores, pattern.quota(0, scores.numel()))


def row_mask(scores: Tensor, pattern: Pattern) -> Tensor:
    """[rows, columns]: the lowest of each row, or of each group."""
    if pattern.group is not None:
        return group_mask(scores, pattern)
    rows, columns = scores.shape
    quotas = [pattern.quota(row * columns, (row + 1) * columns) for row in range(rows)]
    places = _places(scores)
    return places < torch.tensor(quotas, device=scores.device)[:, None]


def group_mask(scores: Tensor, pattern: Pattern) -> Tensor:
    """[rows, columns]: the lowest `pattern.zeros` of each `pattern.group` consecutive weights of a row."""
    assert pattern.group is not None
    groups = scores.reshape(scores.shape[0], -1, pattern.group)
    return (_places(groups) < pattern.zeros).view(scores.shape)


def _places(scores: Tensor) -> Tensor:
    """The place of each score among those of its last dimension, 0 for the lowest."""
    return scores.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)


def _rounded(value: float) -> int:
    """To the nearest whole number, halves up; the tiny slack absorbs binary fractions."""
    return math.floor(value + 0.5 + 1e-9)
