"""Units that stay or go by independent coin flips: drawing them, how their chances move a loss, what a budget allows.

A loss of drawn masks needs no gradient of its own: its expectation has one in the probabilities, and losses of forward
passes estimate it (Williams 1992, "Simple statistical gradient-following algorithms", REINFORCE).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BISECTIONS = 80
_ROUNDING = 1e-13


def draw(probabilities: Tensor, count: int, random: torch.Generator) -> Tensor:
    """[count, units] masks: 1 for a unit that stays."""
    flips = torch.rand((count, len(probabilities)), generator=random, dtype=probabilities.dtype)
    return (flips < probabilities).to(probabilities.dtype)


def score_function(masks: Tensor, probabilities: Tensor) -> Tensor:
    """[count, units] gradient of each mask's log probability by the probabilities; 0 where a unit's fate is certain."""
    variances = probabilities * (1 - probabilities)
    return torch.where(variances > 0, (masks - probabilities) / variances.clamp_min(1e-300), 0.0)


def policy_gradient(losses: Tensor, baselines: Tensor, masks: Tensor, probabilities: Tensor) -> Tensor:
    """[units] estimate of the expected loss's gradient, the mean over masks of (loss - baseline) * score function.

    Unbiased for any baseline [count] that does not depend on its own mask.
    """
    return (losses - baselines) @ score_function(masks, probabilities) / len(losses)


def others_mean(losses: Tensor) -> Tensor:
    """[count] for each mask the mean loss of the others drawn with it: what the step's text costs anyway."""
    return (losses.sum() - losses) / (len(losses) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The units of `span` may have an expected cost of `most`; `costs` [units of the span] are above 0."""

    span: slice
    costs: Tensor
    most: float


def project(point: Tensor, limit: Limit) -> Tensor:
    """The nearest probabilities, in Euclid's distance, that the limit allows: clamp(point - v * costs, 0, 1).

    v >= 0 is 0 where the limit holds already, and meets it exactly otherwise (the conditions of Karush, Kuhn and
    Tucker for a half-space cut with a box). The cost falls with v along straight pieces; bisection finds the piece.
    """

    def at(multiplier: float) -> Tensor:
        return (point - multiplier * limit.costs).clamp(0.0, 1.0)

    def cost(multiplier: float) -> float:
        return float(limit.costs @ at(multiplier))

    if cost(0.0) <= limit.most:
        return at(0.0)
    low, high = 0.0, float((point / limit.costs).max())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if low <= (exact := _exact(point, limit, middle)) <= high and _is_met(cost(exact), limit.most):
            return at(exact)
        low, high = (middle, high) if cost(middle) > limit.most else (low, middle)
    return at(high)


def _is_met(cost: float, most: float) -> bool:
    return abs(cost - most) <= _ROUNDING * max(1.0, most)


def _exact(point: Tensor, limit: Limit, near: float) -> float:
    """The multiplier on the straight piece that `near` lies on."""
    moved = point - near * limit.costs
    free = (moved > 0) & (moved < 1)
    costs = limit.costs[free]
    if not len(costs):
        return near
    whole = float(limit.costs[moved >= 1].sum())
    return float((costs @ point[free] + whole - limit.most) / (costs @ costs))


def projected(point: Tensor, limits: tuple[Limit, ...]) -> Tensor:
    """All limits at once, whose spans do not overlap; together they cover the point."""
    moved = torch.empty_like(point)
    for limit in limits:
        moved[limit.span] = project(point[limit.span], limit)
    return moved
