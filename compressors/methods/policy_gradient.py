"""Policy gradient: a unit stays by a coin flip, and losses of forward passes alone say which way its chance is wrong.

Differences from the authors' way: masks are compared with the others of the same step, where the paper has a moving
average (`baseline=moving_average`); steps are scaled by the spread of the losses, so that the rate needs no tuning; one
budget limits all kinds of units together, where theirs takes the same share of each; the end is rounded to widths that
can be served, and the consumers are refitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressors.depth import DEPTH_UNITS
from compressors.policy import PolicyConfig
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientConfig(PolicyConfig):
    """The learning's own."""


METHOD = Method(
    name="policy_gradient",
    config=PolicyGradientConfig(),
    units=("ffn", "kv", *DEPTH_UNITS),
    needs="energy",
    paper="Gao et al., Bypass Back-propagation (arXiv 2406.10576)",
    learns=True,
    survey="masks",
)
