"""How many blocks does it take to see an effect, and which effect do so many blocks show? Asked before the run.

Both follow from the spread of a block's log-ratio, which an earlier run of the same window length and machine tells,
best an A/A control. A run that could not have seen what it was for is a waste, and its "no difference" no evidence.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from artifacts.errors import ConfigError

MIN_BLOCKS = 6
"""The fewest for which coverage was studied: 93 % or more for symmetric blocks, about 90 % for skewed ones."""
MAX_BLOCKS = 1000
ASSURANCE = 0.9
_NEAR = 5.0  # beyond, the wrong side is hit less than once in a million times, and its formula loses its digits
_FAR = 30.0  # from here on the noncentral t loses digits, and the mean is sure: only the spread's estimate is chance


def power_of(effect: float, spread: float, blocks: int, alpha: float) -> float:
    """Probability that the two-sided paired t test of `blocks` log-ratios finds a true ratio of 1 + effect.

    The noncentral t (Lehmann & Romano, Testing Statistical Hypotheses, section 5.2). A ratio of 1 / (1 + effect) has
    the same power. `spread` is the log-ratio's standard deviation; `blocks` is at least 2.
    """
    if spread == 0:
        return 1.0 if effect else alpha
    shift = abs(math.log1p(effect)) / spread * math.sqrt(blocks)
    critical = float(stats.t.ppf(1 - alpha / 2, blocks - 1))
    if shift > _FAR:
        return float(stats.chi2.cdf((blocks - 1) * (shift / critical) ** 2, blocks - 1))
    other_side = 0.0 if shift > _NEAR else float(stats.nct.cdf(-critical, blocks - 1, shift))
    return float(stats.nct.sf(critical, blocks - 1, shift)) + other_side


def minimum_detectable_effect(spread: float, blocks: int, alpha: float, power: float) -> float | None:
    """The ratio's distance above 1 that is found with probability `power`; None for fewer than two blocks.

    None as well beyond a factor of 1,000, where nothing can be said.
    """
    if blocks < 2:
        return None
    if spread == 0:
        return 0.0

    def excess(log_ratio: float) -> float:
        return power_of(math.expm1(log_ratio), spread, blocks, alpha) - power

    highest = math.log(1000)
    if excess(highest) < 0:
        return None
    return float(math.expm1(optimize.brentq(excess, 0.0, highest, xtol=1e-9)))


def recommended_blocks(effect: float, spread: float, alpha: float, power: float) -> int:
    """The fewest blocks, at least MIN_BLOCKS and even (ABBA needs pairs), that find 1 + effect with `power`.

    Raises ConfigError where that takes more than MAX_BLOCKS, or `effect` is not above 0.
    """
    if not effect > 0:
        raise ConfigError(f"an effect of {effect:g} cannot be looked for. Give one above 0, such as 5%.")
    for blocks in range(MIN_BLOCKS, MAX_BLOCKS + 1, 2):
        if power_of(effect, spread, blocks, alpha) >= power:
            return blocks
    raise ConfigError(
        f"An effect of {effect:.2%} cannot be shown with {MAX_BLOCKS} blocks that spread by {spread:.2%}. "
        "Measure longer blocks, on a quieter machine, or look for a larger effect."
    )


def assured_spread(spread: float, blocks: int, assurance: float = ASSURANCE) -> float:
    """The upper confidence limit of a spread that `blocks` (at least 2) blocks showed.

    A pilot's standard deviation is too small as often as too large; planning with this limit reaches the wanted power
    with probability `assurance` (Browne, Statistics in Medicine 1995).
    """
    degrees = blocks - 1
    return float(spread * np.sqrt(degrees / stats.chi2.ppf(1 - assurance, degrees)))
