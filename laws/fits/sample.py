"""What is a law fitted to? Points with what was observed there, and which of them are not independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from laws.forms import Array, Conditions, Floats, Law

Scale = Literal["log", "natural"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`clusters` numbers what varies together: all measurements of one pruned model are one cluster."""

    at: Conditions
    observed: Floats
    clusters: Array
    models: Array

    def __len__(self) -> int:
        return len(self.observed)

    def choose(self, index: Array) -> Sample:
        return Sample(
            at=self.at.at(index),
            observed=self.observed[index],
            clusters=self.clusters[index],
            models=self.models[index],
        )

    def for_law(self, law: Law, scale: Scale) -> Sample:
        """Without the points of which the law says nothing, and those that have no value on the scale, as log 0."""
        least = 0.0 if scale == "log" else -np.inf
        return self.choose(np.flatnonzero(law.defined(self.at) & np.isfinite(self.observed) & (self.observed > least)))

    @property
    def cluster_count(self) -> int:
        return len(np.unique(self.clusters))


def fixed_parameters(law: Law, sample: Sample) -> dict[str, float]:
    """Those whose condition does not vary in the sample: gamma where every point had the same recovery."""
    told = np.ptp(sample.at.tokens) > 0
    return {} if told else dict(law.neutral or {})


def transformed(values: Array, scale: Scale) -> Array:
    """On the log scale an error is a share of the value; NaN where a law gives no positive value."""
    if scale == "natural":
        return values
    with np.errstate(invalid="ignore"):
        return np.asarray(np.log(np.where(values.real > 0, values, np.nan)))
