"""Up to which ratio does a law promise what is asked for? Critical ratios in closed form, and of any fitted law.

Recovery cannot bring a model beyond its critical ratio back to a fraction of the dense one's value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laws.forms import Array, Conditions, Floats, Law

_GRID = np.linspace(0, 0.99, 991)


def critical_ratio_v1(kept: float, beta: float) -> float | None:
    """kept^(1/beta) - 1: v1 with alpha = 1 and endless recovery (arXiv 2504.04342v1).

    `kept` is a share of the accuracy (below 1, with beta < 0) or a multiple of the loss (above 1, with beta > 0). None
    where no ratio is critical: the value moves the other way, or not at all.
    """
    if beta == 0 or (kept < 1) != (beta < 0):
        return None
    exponent = np.log(kept) / beta
    return float(np.expm1(exponent)) if exponent < np.log(2) else 1.0


def critical_ratio_v2(kept: float, log_p0: float, alpha: float) -> float | None:
    """1 - (kept / P0)^(1/alpha), from L / L0 = P0 (1 - r)^alpha; between 0 and 1, None where alpha is 0."""
    if alpha == 0:
        return None
    exponent = (np.log(kept) - log_p0) / alpha
    return float(np.clip(-np.expm1(min(exponent, 0.0)), 0, 1))


def crossing_ratio(
    law: Law, parameters: Sequence[float] | Array, base: float, kept: float, tokens: float, d_unit: float
) -> Array:
    """The least r at which `law` leaves `kept` x `base`, to 0.001; 1 where it stays within; for each parameter set.

    `kept` below 1 is a floor (accuracy), above 1 a ceiling (loss).
    """
    values = np.asarray(law(parameters, along_ratios(_GRID, base, tokens, d_unit))) / base
    outside = values < kept if kept < 1 else values > kept
    return np.where(outside.any(axis=-1), _GRID[outside.argmax(axis=-1)], 1.0)


def along_ratios(ratios: Floats, base: float, tokens: float, d_unit: float, base_params: float = np.nan) -> Conditions:
    """The same model and budget at many ratios; the parameters that are left are taken to shrink with r."""
    same = np.ones(len(ratios))
    return Conditions(
        base=base * same,
        ratio=ratios,
        tokens=tokens * same,
        base_params=base_params * same,
        params=base_params * (1 - ratios),
        d_unit=d_unit,
    )
