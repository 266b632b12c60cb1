"""Numbers for the claims about the first paper's law: which exponent, how good a fit, how far it carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from artifacts.study import NO_RECOVERY
from laws.claims.claim import NO_ENDS, Measurement, Number
from laws.claims.evidence import conditions_of, derived_number, law_scopes, parameter_number
from laws.critical import critical_ratio_v1
from laws.fits.fit import Fitted
from laws.forms import Array
from laws.studies.comparison import Analysis, Comparison
from laws.studies.samples import Scope, cells_of

_V1 = "v1"
_BETA = 1
_KEPT = (0.9, 0.8)


def loss_exponent(analysis: Analysis) -> Iterator[Measurement]:
    """C1: v1's exponent on losses, how well it fits, and whether a straight line would do as well."""
    for scope, comparison, found in _fitted(analysis, "loss"):
        linear, quadratic = comparison.law("linear"), comparison.law("quadratic")
        numbers = [parameter_number(found, "beta"), *_goodness(found)]
        if linear and quadratic:
            gain = linear.fit.aic - quadratic.fit.aic
            numbers.append(Number(name="AIC of linear minus AIC of quadratic", value=gain, n=found.fit.n))
        yield _measurement(analysis, scope, numbers)


def accuracy_exponent(analysis: Analysis) -> Iterator[Measurement]:
    """C2: the exponent on accuracies, and whether it is smaller than that on losses."""
    losses = [(scope, found) for scope, _, found in _fitted(analysis, "loss")]
    for scope, _, found in _fitted(analysis, "accuracy"):
        twins = [f for s, f in losses if (s.method, s.recovery) == (scope.method, scope.recovery)]
        numbers = [derived_number("|beta|", [found], lambda p: np.abs(p[0][_BETA]))]
        if twins:
            numbers.append(derived_number("|beta| of losses minus |beta|", [found, *twins], _difference))
        yield _measurement(analysis, scope, numbers)


def _difference(p: Sequence[Array]) -> Array:
    """The mean size of the exponent on all texts less that of the first fit, on accuracies."""
    return np.asarray(np.mean([np.abs(each[_BETA]) for each in p[1:]], axis=0) - np.abs(p[0][_BETA]))


def goodness(analysis: Analysis) -> Iterator[Measurement]:
    """C12: R^2 inside and outside the fitted ratios, and F."""
    for kind in ("loss", "accuracy"):
        for scope, comparison, found in _fitted(analysis, kind):
            numbers = _goodness(found)
            law = comparison.law(_V1)
            error = law.error_of("higher ratios") if law else None
            if error is not None and error.r2 is not None:
                numbers.append(Number.within("held-out R2", error.r2, error.n, (error.r2_low, error.r2_high)))
            yield _measurement(analysis, scope, numbers)


def critical_ratios(analysis: Analysis) -> Iterator[Measurement]:
    """C13: the closed form's critical ratios against the highest ratio that was seen to keep as much."""
    for scope, _, found in _fitted(analysis, "accuracy"):
        if scope.recovery != NO_RECOVERY:
            numbers = [number for kept in _KEPT for number in _critical(analysis, scope, found, kept)]
            yield _measurement(analysis, scope, numbers)


def _critical(analysis: Analysis, scope: Scope, found: Fitted, kept: float) -> list[Number]:
    """Where accuracy rises with r there is no critical ratio: every ratio keeps enough."""
    seen = seen_critical_ratio(analysis, scope, kept)

    def promised(p: Sequence[Array]) -> Array:
        found = [critical_ratio_v1(kept, float(beta)) for beta in np.atleast_1d(p[0][_BETA])]
        return np.array([1.0 if ratio is None else ratio for ratio in found]).reshape(np.shape(p[0][_BETA]))

    by_law = derived_number(f"critical ratio for {kept:g}, by the law", [found], promised)
    off = derived_number(f"difference at {kept:g}", [found], lambda p: np.abs(promised(p) - seen))
    return [off, by_law, Number(name=f"critical ratio for {kept:g}, seen", value=seen, n=found.fit.n)]


def seen_critical_ratio(analysis: Analysis, scope: Scope, kept: float) -> float:
    """Where the mean after the most recovery leaves `kept` x the dense value for good: a floor below 1, else a ceiling.

    Between measured ratios the means are joined by lines, and begin with the dense model at r = 0; where they stay
    within it is the highest ratio measured.
    """
    cells = [cell for cell in cells_of(analysis.study, scope) if cell.recovery == scope.recovery]
    most = max(cell.recovery_tokens for cell in cells)
    shares: dict[float, list[float]] = {}
    for cell in cells:
        pair = scope.value_of(cell)
        if cell.recovery_tokens == most and pair is not None:
            shares.setdefault(cell.ratio, []).append(pair[0] / pair[1])
    ratios = np.array([0.0, *sorted(shares)])
    means = np.array([1.0, *(float(np.mean(shares[ratio])) for ratio in sorted(shares))])
    last = int(np.flatnonzero(means >= kept if kept < 1 else means <= kept)[-1])
    if last == len(ratios) - 1:
        return float(ratios[-1])
    along = (means[last] - kept) / (means[last] - means[last + 1])
    return float(ratios[last] + along * (ratios[last + 1] - ratios[last]))


def _goodness(found: Fitted) -> list[Number]:
    fit = found.fit
    values = (
        ("adjusted R2", fit.r2_adjusted, (fit.r2_low, fit.r2_high)),
        ("adjusted R2 without intercept", fit.r2_adjusted_uncentred, NO_ENDS),
        ("F", fit.f, NO_ENDS),
    )
    return [Number.within(name, value, fit.n, ends) for name, value, ends in values if value is not None]


def _fitted(analysis: Analysis, kind: str) -> Iterator[tuple[Scope, Comparison, Fitted]]:
    for scope in law_scopes(analysis, "loss" if kind == "loss" else "accuracy"):
        comparison, found = analysis.of(scope), analysis.fitted.get((scope, _V1))
        if comparison is not None and found is not None:
            yield scope, comparison, found


def _measurement(analysis: Analysis, scope: Scope, numbers: list[Number]) -> Measurement:
    cells = cells_of(analysis.study, scope)
    return Measurement(scope=scope.label, conditions=conditions_of(cells), numbers=tuple(numbers), cells=cells)
