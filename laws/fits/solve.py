"""Which parameters fit best? Least squares over any law, and over many resamples of the points at once.

Derivatives are complex steps, exact to rounding. Resamples are weights on the points, solved together by damped
Gauss-Newton from the estimate: for a law that is linear on its scale this is the exact answer in one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from artifacts.errors import ConfigError
from laws.fits.sample import Sample, Scale, fixed_parameters, transformed
from laws.forms import Array, Floats, Law

_STEP = 1e-30
_ROUNDS = 20
_DAMPINGS = (0.0, 1e-3, 1e-1, 10.0)
_TINY = 1e-10
_CONDITION_LIMIT = 1e9
_HUGE = 1e6


@dataclass(frozen=True, slots=True)
class Problem:
    """One law, one sample, one scale; `fixed` parameters stay at their values."""

    law: Law
    sample: Sample
    scale: Scale
    fixed: dict[str, float]

    @classmethod
    def of(cls, law: Law, sample: Sample, scale: Scale) -> Problem:
        """Raises ConfigError if there are not more points than parameters."""
        usable = sample.for_law(law, scale)
        for condition, least in law.needs.items():
            found = len(np.unique(getattr(usable.at, condition)))
            if found < least:
                raise ConfigError(
                    f"The law {law.name!r} needs at least {least} different values of {condition}; its points have "
                    f"{found}. Measure more."
                )
        fixed = fixed_parameters(law, usable) if len(usable) else {}
        free = len(law.parameters) - len(fixed)
        if len(usable) <= free:
            raise ConfigError(
                f"The law {law.name!r} has {free} parameters and {len(usable)} points to fit them to. "
                "Measure more ratios, models or budgets."
            )
        return cls(law, usable, scale, fixed)

    @property
    def free(self) -> tuple[int, ...]:
        return tuple(i for i, name in enumerate(self.law.parameters) if name not in self.fixed)

    def whole(self, free: Array) -> Array:
        """All parameters from the free ones, along the last axis."""
        full = np.empty((*free.shape[:-1], len(self.law.parameters)), dtype=free.dtype)
        for index, name in enumerate(self.law.parameters):
            full[..., index] = free[..., self.free.index(index)] if index in self.free else self.fixed[name]
        return full

    @property
    def is_linear(self) -> bool:
        return self.scale == "log" and self.law.log_terms is not None

    def linear_terms(self) -> tuple[Floats, Floats]:
        """The columns of the free parameters, and the rest with the fixed ones in it."""
        assert self.law.log_terms is not None
        columns, rest = self.law.log_terms(self.sample.at)
        for index, name in enumerate(self.law.parameters):
            if index not in self.free:
                rest = rest + self.fixed[name] * columns[:, index]
        return columns[:, list(self.free)], rest

    @property
    def target(self) -> Floats:
        return np.asarray(transformed(self.sample.observed, self.scale), dtype=float)

    def predicted(self, free: Array) -> Array:
        """On the problem's scale."""
        if self.is_linear:
            columns, rest = self.linear_terms()
            return rest + free @ columns.T
        with np.errstate(all="ignore"):
            return transformed(self.law(self.whole(free), self.sample.at), self.scale)

    def jacobian(self, free: Floats) -> Floats:
        """(..., points, free parameters)."""
        if self.is_linear:
            terms, _ = self.linear_terms()
            return np.broadcast_to(terms, (*free.shape[:-1], *terms.shape))
        columns = []
        for index in range(free.shape[-1]):
            moved = free.astype(complex)
            moved[..., index] += 1j * _STEP
            columns.append(self.predicted(moved).imag / _STEP)
        return np.asarray(np.stack(columns, axis=-1), dtype=float)


def minimise(problem: Problem) -> Floats:
    """The free parameters of least squares, the best of the law's starts.

    Raises ConfigError if the points cannot tell the parameters apart.
    """
    best: tuple[float, Floats] | None = _linear_answer(problem) if problem.is_linear else None
    for start in () if problem.is_linear else problem.law.starts:
        free = np.array([start[i] for i in problem.free])
        if not np.isfinite(problem.predicted(free)).all():
            continue
        found = least_squares(
            lambda p: _finite(problem.predicted(p) - problem.target),
            free,
            jac=lambda p: _finite(problem.jacobian(p)),
            method="lm",
            x_scale="jac",
            max_nfev=2000,
            xtol=1e-10,
            ftol=1e-12,
        )
        if best is None or found.cost < best[0]:
            best = (float(found.cost), np.asarray(found.x))
    if best is None or not _told_apart(problem.jacobian(best[1])):
        raise ConfigError(
            f"The points cannot tell the parameters of the law {problem.law.name!r} apart. "
            "Measure more ratios, models or budgets."
        )
    return best[1]


def _linear_answer(problem: Problem) -> tuple[float, Floats]:
    columns, rest = problem.linear_terms()
    return 0.0, np.asarray(np.linalg.lstsq(columns, problem.target - rest)[0], dtype=float)


def resampled(problem: Problem, estimate: Floats, weights: Floats) -> Floats:
    """The free parameters of each row of `weights` (resamples, points); rows that do not converge are left out."""
    p = np.repeat(estimate[None, :], len(weights), axis=0)
    cost = _cost(problem, p, weights)
    moving = np.ones(len(p), dtype=bool)
    for _ in range(_ROUNDS):
        better, lower = _improved(problem, p[moving], weights[moving], cost[moving])
        gained = cost[moving] - lower
        p[moving], cost[moving] = better, lower
        moving[np.flatnonzero(moving)[gained <= _TINY * (lower + _TINY)]] = False
        if not moving.any():
            break
    return np.asarray(p[np.isfinite(p).all(axis=-1) & ~moving])


def _improved(problem: Problem, p: Floats, weights: Floats, cost: Floats) -> tuple[Floats, Floats]:
    """One step each, the least damped that lowers the cost; unchanged where none does."""
    jacobian = problem.jacobian(p)
    residual = problem.target - problem.predicted(p)
    weighted = jacobian * weights[..., None]
    normal = np.einsum("bni,bnj->bij", weighted, jacobian)
    gradient = np.einsum("bni,bn->bi", weighted, residual)
    diagonal = np.einsum("bii->bi", normal)
    found, lowest, open_ = p.copy(), cost.copy(), np.ones(len(p), dtype=bool)
    for damping in _DAMPINGS:
        damped = normal + (damping + 1e-13) * np.einsum("bi,ij->bij", diagonal, np.eye(p.shape[-1]))
        solvable = open_ & np.isfinite(damped).all(axis=(1, 2)) & (np.abs(np.linalg.det(_safe(damped))) > 0)
        rows = np.flatnonzero(solvable)
        if not len(rows):
            break
        tried = p[rows] + np.linalg.solve(damped[rows], gradient[rows][..., None])[..., 0]
        costs = _cost(problem, tried, weights[rows])
        good = costs <= cost[rows]
        found[rows[good]], lowest[rows[good]] = tried[good], costs[good]
        open_[rows[good]] = False
    return found, lowest


def _cost(problem: Problem, p: Floats, weights: Floats) -> Floats:
    off = problem.predicted(p) - problem.target
    total = np.asarray(np.sum(weights * off**2, axis=-1))
    return np.where(np.isfinite(total), total, np.inf)


def _safe(matrices: Floats) -> Floats:
    return np.where(np.isfinite(matrices), matrices, 0.0)


def _finite(values: Floats) -> Floats:
    """A law that leaves the positive numbers is as far off as can be, not undefined."""
    return np.nan_to_num(values, nan=_HUGE, posinf=_HUGE, neginf=-_HUGE)


def _told_apart(jacobian: Floats) -> bool:
    """Whether the columns, each of length 1, are independent."""
    lengths = np.linalg.norm(jacobian, axis=0)
    if not np.isfinite(jacobian).all() or (lengths == 0).any():
        return False
    return bool(np.linalg.cond(jacobian / lengths) < _CONDITION_LIMIT)
