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
    """Faster or slower only if the published interval leaves 1 out, the adjusted p value is below 1 - confidence, and the
    value lies outside the control's interval (its band), which is how far from 1 the same model can come."""
    if estimate.low is None or estimate.high is None or estimate.low <= 1 <= estimate.high:
        return "no difference shown"
    if p_adjusted is not None and p_adjusted >= 1 - estimate.confidence:
        return "no difference shown"
    if control is not None and (control.low is None or control.high is None):
        return "no difference shown"
    if control is not None and control.low is not None and control.high is not None:
        if control.low <= estimate.value <= control.high:
            return "no difference shown"
    return "faster" if estimate.value > 1 else "slower"
