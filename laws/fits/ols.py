"""The papers' own way: ordinary least squares after taking logarithms, without an intercept, by statsmodels.

A regression without an intercept measures its R^2 against zero: log losses are far from zero, so it is near one for
any law. Here it is given as that, beside the usual one against the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from statsmodels.regression.linear_model import OLS

from laws.fits.solve import Problem
from laws.forms import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """Intervals are Student's at 95 %, for independent errors of one spread; F is against all parameters 0.

    None is what 0 / 0 would be: F where nothing is left over, R^2 where every target is 0.
    """

    free: Floats
    low: Floats
    high: Floats
    f: float | None
    f_p: float | None
    r2_adjusted_uncentred: float | None


def log_ols(problem: Problem) -> Regression:
    """The problem's law must be linear in log space."""
    columns, rest = problem.linear_terms()
    # A constant column would make statsmodels measure against the mean for one law and not for the next.
    fitted = OLS(problem.target - rest, columns, hasconst=False).fit()
    low, high = np.asarray(fitted.conf_int()).T
    return Regression(
        free=np.asarray(fitted.params),
        low=low,
        high=high,
        f=float(fitted.fvalue) if fitted.ssr > 0 else None,
        f_p=float(fitted.f_pvalue) if fitted.ssr > 0 else None,
        r2_adjusted_uncentred=float(fitted.rsquared_adj) if fitted.uncentered_tss > 0 else None,
    )
