"""How far may a share of many items, or a value with a known standard error, lie from the truth?"""

from __future__ import annotations

from math import sqrt

NORMAL_95 = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""


def share_half_width(share: float, items: int) -> float:
    """Half of the 95 % interval of a share of `items` independent ones, by the normal approximation (Wald's)."""
    return NORMAL_95 * sqrt(share * (1 - share) / items)
