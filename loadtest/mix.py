"""Who answers request i of an arm? One model, or one of several by their shares: `dense=0.9,pruned=0.1`.

A mix is an arm of its own, named by what was asked. Its records hold the model that was asked, so that one can tell
how the models of a mix fare; ratios are between arms and know nothing of it. The draw is the same for all arms of a
block: where two mixes agree about a request, it goes to the same model in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from artifacts.errors import ConfigError
from loadtest.draws import Purpose, generator
from loadtest.plan import Plan, Segment

Shares = tuple[tuple[str, float], ...]


@lru_cache(maxsize=64)
def shares_of(arm: str) -> Shares:
    """Models and shares, which sum to 1, of an arm's name; a name without `=` and a comma is one model's.

    Raises ConfigError for a mix that is none: a part that is no NAME=SHARE, a share that is not above 0, a model twice.
    """
    if "=" not in arm or "," not in arm:
        return ((arm, 1.0),)
    parts = [part.rpartition("=") for part in arm.split(",")]
    try:
        weights = {name.strip(): float(share) for name, _, share in parts}
    except ValueError as error:
        raise _no_mix(arm) from error
    total = sum(weights.values())
    if len(weights) != len(parts) or not all(weights) or not 0 < total < float("inf") or min(weights.values()) <= 0:
        raise _no_mix(arm)
    return tuple((name, weight / total) for name, weight in weights.items())


def models_of(arms: Sequence[str]) -> tuple[str, ...]:
    """Every model that some arm asks, once, in order."""
    return tuple(dict.fromkeys(name for arm in arms for name, _ in shares_of(arm)))


def model_of(plan: Plan, segment: Segment, index: int) -> str:
    """Who is asked request `index` of a segment."""
    shares = shares_of(plan.arms[segment.arm])
    if len(shares) == 1:
        return shares[0][0]
    at = generator(plan.workload.seed, Purpose.MIX, segment.block, index).random()
    ends = accumulate(share for _, share in shares)
    return next((name for (name, _), end in zip(shares, ends, strict=True) if at < end), shares[-1][0])


def _no_mix(arm: str) -> ConfigError:
    return ConfigError(
        f"{arm!r} is no mix of models. Give two or more different NAME=SHARE with shares above 0, "
        "as in dense=0.9,pruned=0.1."
    )
