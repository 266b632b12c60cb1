"""Numbers for the second paper's claims, on scores: accuracies, and 1 / loss for texts. It knows no recovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from artifacts.errors import ConfigError
from artifacts.study import NO_RECOVERY
from laws.claims.claim import NO_ENDS, Measurement, Number
from laws.claims.evidence import conditions_of, derived_number, grouped, reaches_far
from laws.fits.bootstrap import LEAST_CLUSTERS, cluster_weights, expanded_interval, mean_interval
from laws.fits.fit import Fitted, fit_law
from laws.fits.held_out import held_out
from laws.fits.sample import Sample
from laws.forms import V2, Array, Floats
from laws.studies.comparison import Analysis
from laws.studies.samples import Scope, cells_of, sample_of, scopes_of

Family = Literal["question answering", "language modelling", "reasoning"]
_FAMILIES: dict[Family, tuple[str, ...]] = {
    "question answering": ("coqa",),
    "language modelling": ("wikitext", "lambada"),
    "reasoning": ("piqa", "winogrande", "hellaswag", "arc"),
}
_ALPHA = 1
_KNEES = np.arange(0.15, 0.9, 0.01)
_REPLICATES = 400


def rolling_error(analysis: Analysis) -> Iterator[Measurement]:
    """C14: per method, the error on ratios above those fitted, in units of the dense score, over texts and tasks."""
    for method, scopes in _by_method(analysis).items():
        errors = {}
        for scope in scopes:
            error = held_out(V2, sample_of(analysis.study, scope), "rolling")
            if error is not None:
                errors[scope.name] = error
        if not errors:
            continue
        values = np.array([error.rmse_of_base for error in errors.values()])
        mean, low, high = mean_interval(values)
        if len(errors) == 1:
            only = next(iter(errors.values()))
            low, high = only.rmse_of_base_low, only.rmse_of_base_high
        each = [Number(name=name, value=error.rmse_of_base, n=error.n) for name, error in errors.items()]
        headline = Number(name="mean RMSE", value=mean, low=low, high=high, n=len(errors))
        yield _measurement(analysis, method, scopes, [headline, *each])


def fragility(analysis: Analysis) -> Iterator[Measurement]:
    """C15: how fast scores of each family of tasks fall, and in which order."""
    for method, scopes in _by_method(analysis).items():
        alphas = {family: _fits(analysis, scopes, starts) for family, starts in _FAMILIES.items()}
        numbers = [
            derived_number(f"alpha of {family}", fits, lambda p: np.mean([each[_ALPHA] for each in p], axis=0))
            for family, fits in alphas.items()
            if fits
        ]
        if numbers:
            yield _measurement(analysis, method, scopes, [*_differences(alphas), *numbers])


def knees(analysis: Analysis) -> Iterator[Measurement]:
    """C16: where the score begins to fall faster: the break of two straight lines, over all seeds and models."""
    for method, scopes in _by_method(analysis).items():
        for scope in scopes:
            sample = sample_of(analysis.study, scope)
            yield _measurement(analysis, f"{method} · {scope.name}", [scope], _knee_numbers(sample))


def _knee_numbers(sample: Sample) -> list[Number]:
    kept, n = sample.observed / sample.at.base, len(sample)
    whole = knees_of(sample.at.ratio, kept, np.ones((1, n)))[:, 0]
    ends = [NO_ENDS, NO_ENDS]
    if sample.cluster_count >= LEAST_CLUSTERS:
        drawn = knees_of(sample.at.ratio, kept, cluster_weights(sample.clusters, _REPLICATES, 0))
        low, high = expanded_interval(drawn.T, sample.cluster_count, 4)
        ends = [(float(low[i]), float(high[i])) for i in range(2)]
    return [
        Number.within("knee", float(whole[0]), n, ends[0]),
        Number.within("slope after less slope before", float(whole[1]), n, ends[1]),
    ]


def knees_of(ratio: Floats, kept: Floats, weights: Floats) -> Floats:
    """(break point, change of slope) of two joined lines by least squares, for each row of `weights`: (2, rows).

    A negative change is a fall that gets steeper. Break points are tried in steps of 0.01 within the ratios.
    """
    levels = np.unique(ratio)
    cost = np.full(len(weights), np.inf)
    found = np.full((2, len(weights)), np.nan)
    for at in _KNEES[(levels[1] <= _KNEES) & (levels[-2] >= _KNEES)]:
        columns = np.column_stack((np.ones_like(ratio), ratio, np.maximum(0, ratio - at)))
        normal = np.einsum("bn,ni,nj->bij", weights, columns, columns, optimize=True)
        lines = np.einsum("bij,bj->bi", np.linalg.pinv(normal, hermitian=True), weights @ (columns * kept[:, None]))
        costs = np.sum(weights * (lines @ columns.T - kept) ** 2, axis=1)
        better = costs < cost
        cost[better] = costs[better]
        found[0, better], found[1, better] = at, lines[better, 2]
    return found


def _by_method(analysis: Analysis) -> dict[str, list[Scope]]:
    """Each task and text, without recovery, where there are enough ratios."""
    study = analysis.study
    found = (*scopes_of(study, "score"), *scopes_of(study, "accuracy", each_task=True))
    bare = [scope for scope in found if scope.recovery == NO_RECOVERY and reaches_far(cells_of(study, scope))]
    return grouped(bare, lambda scope: scope.method)


def _fits(analysis: Analysis, scopes: Sequence[Scope], starts: tuple[str, ...]) -> list[Fitted]:
    found = []
    for scope in scopes:
        if scope.name.lower().startswith(starts):
            try:
                found.append(fit_law(V2, sample_of(analysis.study, scope), replicates=_REPLICATES))
            except ConfigError:
                continue
    return found


def _differences(alphas: dict[Family, list[Fitted]]) -> Iterator[Number]:
    order = list(_FAMILIES)
    for first, second in pairwise(order):
        one, two = alphas[first], alphas[second]
        if one and two:
            split = len(one)

            def gap(p: Sequence[Array], split: int = split) -> Array:
                parts = (p[:split], p[split:])
                means = [np.mean([each[_ALPHA] for each in part], axis=0) for part in parts]
                return np.asarray(means[0] - means[1])

            yield derived_number(f"alpha of {first} less that of {second}", [*one, *two], gap)


def _measurement(analysis: Analysis, scope: str, scopes: Sequence[Scope], numbers: Sequence[Number]) -> Measurement:
    cells = cells_of(analysis.study, scopes[0])
    return Measurement(scope=scope, conditions=conditions_of(cells), numbers=tuple(numbers), cells=cells)
