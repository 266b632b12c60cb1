"""What may be said about a ratio? Only what survives chance, the number of questions asked, and the A/A control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from artifacts.run import Estimate

Verdict = Literal["faster", "slower", "no difference shown"]


def holm_adjusted(p_values: Sequence[float]) -> tuple[float, ...]:
    """The smallest family-wise error at which each hypothesis would still be rejected, in the order given.

    Holm, Scandinavian Journal of Statistics 1979: the k-th smallest of m is multiplied by m - k + 1, and none may be
    below the one before it.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return tuple(adjusted)


def verdict(estimate: Estimate, p_adjusted: float | None, control: Estimate | None) -> Verdict:
    """Faster or slower only where three things hold, else nothing is shown.

    The published interval leaves 1 out; the adjusted p value (None: the blocks do not differ at all) is below
    1 - confidence; the value lies outside the control's interval, which is how far from 1 a model comes against itself.
    """
    beyond_chance = p_adjusted is None or p_adjusted < 1 - estimate.confidence
    shown = beyond_chance and _outside(1.0, estimate) and (control is None or _outside(estimate.value, control))
    if not shown:
        return "no difference shown"
    return "faster" if estimate.value > 1 else "slower"


def _outside(value: float, estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and not estimate.low <= value <= estimate.high
