"""Are fitted parameters right, and as sure as they claim? Synthetic data from each law, a hundred times over."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from artifacts.errors import ConfigError
from laws.fits.bootstrap import cluster_weights, expanded_interval, mean_interval, r2_against_mean
from laws.fits.fit import Fitted, fit_law, point_estimate
from laws.fits.sample import Sample, Scale
from laws.fits.solve import Problem, resampled
from laws.forms import LAWS, Law
from tests.laws.samples import TRUE, grid, noisy, truth

DRAWS = 100
ENOUGH = 93
HARDLY = 88
LARGE = grid(budgets=(1e5, 1e6, 4e6, 25e6, 100e6), ratios=(0.1, 0.3, 0.5, 0.7, 0.9))


SMALL = grid(budgets=(0.0, 1e6, 25e6), ratios=(0.1, 0.3, 0.5, 0.7, 0.9))


def covered(law: Law, sample: Sample, noise: float, scale: Scale, replicates: int) -> dict[str, list[int]]:
    """How often each parameter's interval holds the truth, by the kind of interval."""
    hits: dict[str, list[list[bool]]] = {}
    for seed in range(DRAWS):
        drawn = noisy(sample, noise, seed, natural=scale == "natural")
        fit = fit_law(law, drawn, scale, replicates=replicates, seed=seed).fit
        ends = {"t": [(p.t_low, p.t_high) for p in fit.parameters]}
        if replicates:
            ends["bootstrap"] = [(p.low, p.high) for p in fit.parameters]
        for kind, intervals in ends.items():
            pairs = zip(intervals, TRUE[law.name], strict=True)
            hits.setdefault(kind, []).append([(low or 0) <= true <= (high or 0) for (low, high), true in pairs])
    return {kind: list(np.sum(rows, axis=0)) for kind, rows in hits.items()}


@pytest.mark.parametrize(
    ("name", "scale", "noise", "replicates"),
    [
        ("v1", "log", 0.03, 200),
        ("v2", "log", 0.03, 200),
        ("v1", "natural", 0.05, 0),
        ("linear", "natural", 0.05, 0),
        ("quadratic", "natural", 0.05, 100),
        ("P2", "log", 0.0005, 0),
        ("sparse scaling", "log", 0.0005, 0),
    ],
)
def test_intervals_cover_the_truth(name: str, scale: Scale, noise: float, replicates: int) -> None:
    """On average over a law's parameters in 93 of 100 draws; each by itself in 88, which a true 95 % hardly misses.

    A true 95 % interval is itself in fewer than 93 of 100 with a probability of 13 %; with a thousand draws it is not:
    see the coverage page among the benchmarks.
    """
    law = LAWS[name]
    sample = truth(law, LARGE if len(law.parameters) > 3 else SMALL)
    for kind, counts in covered(law, sample, noise, scale, replicates).items():
        assert np.mean(counts) >= ENOUGH, (kind, counts)
        assert min(counts) >= HARDLY, (kind, counts)
