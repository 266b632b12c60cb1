"""How far off is a law where it was not fitted? The test that the first paper lacks and a prediction needs.

Three ways to leave points out: the higher ratios (fitted up to 0.6), each ratio and all above it in turn (rolling), and
each model in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from artifacts.document import Document
from artifacts.errors import ConfigError
from laws.fits.bootstrap import LEAST_CLUSTERS, cluster_weights, expanded_interval, r2_against_mean, r2_interval
from laws.fits.fit import point_estimate
from laws.fits.sample import Sample, Scale
from laws.forms import Array, Floats, Law

Split = Literal["higher ratios", "rolling", "another model"]
LAST_FITTED_RATIO = 0.6
_REPLICATES = 1000


class HeldOut(Document):
    """Errors on the points that were left out, over all folds. `rmse_of_base` is in units of the dense model's value.

    R^2 is against the mean of the points that were left out: below 0 the law says less than that mean.
    """

    split: Split
    folds: int
    fitted: int = Field(description="points fitted to, of all folds")
    n: int
    rmse: float
    rmse_of_base: float
    rmse_of_base_low: float | None = None
    rmse_of_base_high: float | None = None
    r2: float | None
    r2_low: float | None = None
    r2_high: float | None = None


def held_out(law: Law, sample: Sample, split: Split, scale: Scale = "log", bounds: bool = True) -> HeldOut | None:
    """None where nothing can be left out, or what is left cannot be fitted; `bounds`: with intervals."""
    usable = sample.for_law(law, scale)
    fitted, parts, predictions = 0, [], []
    for train, test in _folds(usable, split):
        try:
            parameters = point_estimate(law, usable.choose(train), scale)
        except ConfigError:
            continue
        fitted += len(train)
        parts.append(usable.choose(test))
        predictions.append(np.asarray(law(parameters, parts[-1].at), dtype=float))
    return _errors(split, fitted, parts, predictions, bounds) if parts else None


def _folds(sample: Sample, split: Split) -> Iterator[tuple[Array, Array]]:
    ratios = sample.at.ratio
    if split == "another model":
        for model in np.unique(sample.models):
            yield from _both(sample.models != model)
        return
    levels = np.unique(ratios)
    lasts = levels[1:-1] if split == "rolling" else [LAST_FITTED_RATIO]
    for last in lasts:
        yield from _both(ratios <= last + 1e-9)


def _both(train: Array) -> Iterator[tuple[Array, Array]]:
    if train.any() and not train.all():
        yield np.flatnonzero(train), np.flatnonzero(~train)


def _errors(split: Split, fitted: int, parts: list[Sample], predictions: list[Floats], bounds: bool) -> HeldOut | None:
    """None where the law has no value at a point that was left out."""
    observed = np.concatenate([part.observed for part in parts])
    base = np.concatenate([part.at.base for part in parts])
    off = np.concatenate(predictions) - observed
    if not np.isfinite(off).all():
        return None
    clusters = np.concatenate([part.clusters for part in parts])
    whole = np.ones((1, len(off)))
    rmse_of_base, r2 = _rmse(off / base, whole)[0], r2_against_mean(off, observed, whole)[0]
    ends: dict[str, float | None] = {}
    count = len(np.unique(clusters))
    if bounds and count >= LEAST_CLUSTERS:
        weights = cluster_weights(clusters, _REPLICATES, 0)
        low, high = expanded_interval(_rmse(off / base, weights), count)
        r2_low, r2_high = r2_interval(off, observed, weights, count)
        ends = {"rmse_of_base_low": float(low), "rmse_of_base_high": float(high), "r2_low": r2_low, "r2_high": r2_high}
    return HeldOut(
        split=split,
        folds=len(parts),
        fitted=fitted,
        n=len(off),
        rmse=float(_rmse(off, whole)[0]),
        rmse_of_base=float(rmse_of_base),
        r2=float(r2) if np.isfinite(r2) else None,
        **ends,
    )


def _rmse(off: Floats, weights: Floats) -> Floats:
    """Of each row of `weights`."""
    return np.asarray(np.sqrt(weights @ off**2 / weights.sum(axis=1)))
