"""What does a law look like when it is fitted, and how good is it? One document per law and sample."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import stats

from artifacts.document import Document
from laws.fits.bootstrap import LEAST_CLUSTERS, cluster_weights, expanded_interval, r2_interval
from laws.fits.ols import Regression, log_ols
from laws.fits.sample import Sample, Scale
from laws.fits.solve import Problem, minimise, resampled
from laws.forms import LAWS, TIME_SHARE, Floats, Law

Way = Literal["log-OLS", "NLS"]
REPLICATES = 1000


class Parameter(Document):
    """`low` and `high` are the cluster bootstrap's; `t_low` and `t_high` Student's, for independent errors."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    fixed: bool = Field(default=False, description="the points do not tell it: it stays at its neutral value")


class LawFit(Document):
    """A law's parameters on one sample. AIC and R^2 are on `scale`, and compare within one sample and scale."""

    law: str
    way: Way
    scale: Scale
    d_unit: float
    parameters: tuple[Parameter, ...]
    n: int
    clusters: int
    replicates: int = Field(description="bootstrap replicates that converged, of those tried")
    r2_adjusted: float | None = Field(description="against the mean")
    r2_low: float | None = Field(default=None, description="of R^2 over resampled clusters, the fit as it is")
    r2_high: float | None = None
    r2_adjusted_uncentred: float | None
    f: float | None = Field(
        description="log-OLS, as the papers: against all parameters 0; NLS: against every point at its dense value"
    )
    f_p: float | None
    aic: float
    residual_rms: float

    @property
    def form(self) -> Law:
        return TIME_SHARE if self.law == TIME_SHARE.name else LAWS[self.law]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(parameter.value for parameter in self.parameters)

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)


class Fitted(Document):
    """A fit with the parameter sets of its bootstrap: (replicates, parameters), for intervals of what follows."""

    fit: LawFit
    spread: tuple[tuple[float, ...], ...]

    @property
    def sets(self) -> Floats:
        return np.array(self.spread).reshape(-1, len(self.fit.parameters))


def fit_law(law: Law, sample: Sample, scale: Scale = "log", *, replicates: int = REPLICATES, seed: int = 0) -> Fitted:
    """Raises ConfigError if the sample has too few points, or cannot tell the law's parameters apart."""
    problem = Problem.of(law, sample, scale)
    free = minimise(problem)
    regression = log_ols(problem) if law.log_terms is not None and scale == "log" else None
    sets = _replicates(problem, free, replicates, seed)
    return Fitted(fit=_described(problem, free, sets, regression), spread=tuple(map(tuple, problem.whole(sets))))


def point_estimate(law: Law, sample: Sample, scale: Scale = "log") -> Floats:
    """All parameters, without intervals: what a held-out test needs. Raises as `fit_law`."""
    problem = Problem.of(law, sample, scale)
    return problem.whole(minimise(problem))


def _replicates(problem: Problem, free: Floats, count: int, seed: int) -> Floats:
    if count == 0 or problem.sample.cluster_count < LEAST_CLUSTERS:
        return np.empty((0, len(free)))
    return resampled(problem, free, cluster_weights(problem.sample.clusters, count, seed))


def _described(problem: Problem, free: Floats, sets: Floats, regression: Regression | None) -> LawFit:
    residuals = problem.target - problem.predicted(free)
    n, k = len(residuals), len(free)
    squares = float(residuals @ residuals)
    centred = float(np.sum((problem.target - problem.target.mean()) ** 2)) if np.ptp(problem.target) else 0.0
    r2_low, r2_high = _r2_ends(problem, residuals, len(sets))
    f, f_p = (regression.f, regression.f_p) if regression else _f_test(problem, squares, k)
    return LawFit(
        law=problem.law.name,
        way="log-OLS" if regression else "NLS",
        scale=problem.scale,
        d_unit=problem.sample.at.d_unit,
        parameters=_parameters(problem, free, sets, regression),
        n=n,
        clusters=problem.sample.cluster_count,
        replicates=len(sets),
        r2_adjusted=1 - squares / (n - k) / (centred / (n - 1)) if centred > 0 else None,
        r2_low=r2_low,
        r2_high=r2_high,
        r2_adjusted_uncentred=regression.r2_adjusted_uncentred if regression else None,
        f=f,
        f_p=f_p,
        aic=float(n * np.log(2 * np.pi * max(squares, 1e-300) / n) + n + 2 * k),
        residual_rms=float(np.sqrt(squares / n)),
    )


def _r2_ends(problem: Problem, residuals: Floats, count: int) -> tuple[float | None, float | None]:
    clusters = problem.sample.cluster_count
    if not count or clusters < LEAST_CLUSTERS:
        return None, None
    return r2_interval(residuals, problem.target, cluster_weights(problem.sample.clusters, count, 0), clusters)


def _f_test(problem: Problem, squares: float, k: int) -> tuple[float | None, float | None]:
    """Against leaving every point at its dense value."""
    n = len(problem.target)
    unpruned = Problem(_DENSE, problem.sample, problem.scale, {}).predicted(np.empty(0))
    explained = float(np.sum((problem.target - unpruned) ** 2)) - squares
    if squares <= 0:
        return None, None
    f = explained / k / (squares / (n - k))
    return f, float(stats.f.sf(f, k, n - k))


def _parameters(problem: Problem, free: Floats, sets: Floats, regression: Regression | None) -> tuple[Parameter, ...]:
    t_low, t_high = (regression.low, regression.high) if regression else _student(problem, free)
    clusters, k = problem.sample.cluster_count, len(free)
    low, high = expanded_interval(sets, clusters, k) if len(sets) else (None, None)
    found = []
    for index, name in enumerate(problem.law.parameters):
        if index not in problem.free:
            found.append(Parameter(name=name, value=problem.fixed[name], fixed=True))
            continue
        at = problem.free.index(index)
        ends = (None if values is None else float(values[at]) for values in (low, high, t_low, t_high))
        named = dict(zip(("low", "high", "t_low", "t_high"), ends, strict=True))
        found.append(Parameter.parse({"name": name, "value": float(free[at]), **named}, "a parameter"))
    return tuple(found)


def _student(problem: Problem, free: Floats) -> tuple[Floats, Floats]:
    """The law taken as linear around the estimate."""
    residuals = problem.target - problem.predicted(free)
    freedom = len(residuals) - len(free)
    jacobian = problem.jacobian(free)
    covariance = np.linalg.inv(jacobian.T @ jacobian) * float(residuals @ residuals) / freedom
    half = float(stats.t.ppf(0.975, freedom)) * np.sqrt(np.diag(covariance))
    return free - half, free + half


_DENSE = Law(
    name="dense",
    equation="L = L0",
    source="for comparison",
    parameters=(),
    value=lambda p, at: at.base,
    starts=((),),
)
