"""Which law holds where? Every law on every sample of a study, with its held-out errors beside the fit's own.

v1 is fitted twice, with D in millions and in raw tokens, as its paper does not say which it means. In raw tokens its
third factor is a switch: 2^gamma without recovery, 1 with any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.study import NO_RECOVERY
from laws.critical import critical_ratio_v1, critical_ratio_v2
from laws.fits.bootstrap import expanded_interval
from laws.fits.fit import REPLICATES, Fitted, LawFit, fit_law
from laws.fits.held_out import HeldOut, Split, held_out
from laws.fits.sample import Sample, Scale
from laws.forms import LAWS, MILLION, Law
from laws.studies.records import Study
from laws.studies.samples import NOMINAL, Kind, Scope, sample_of, scopes_of

SPLITS: tuple[Split, ...] = ("higher ratios", "rolling", "another model")
RAW = 1.0
KEPT: Mapping[Kind, tuple[float, ...]] = {"loss": (1.1, 1.25), "accuracy": (0.9, 0.8), "score": (0.9, 0.8)}
_FORMS: tuple[tuple[Law, float], ...] = (
    (LAWS["v1"], MILLION),
    (LAWS["v1"], RAW),
    *((law, MILLION) for name, law in LAWS.items() if name != "v1"),
)


class CriticalRatio(Document):
    """Up to which r the law keeps `kept` x the dense value, by the paper's closed form; bounds from the bootstrap."""

    kept: float
    ratio: float
    low: float | None = None
    high: float | None = None


class LawResult(Document):
    """One law on one sample."""

    fit: LawFit
    held_out: tuple[HeldOut, ...]
    critical: tuple[CriticalRatio, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.fit.law}, raw tokens" if self.fit.d_unit == RAW else self.fit.law

    def error_of(self, split: Split) -> HeldOut | None:
        return next((error for error in self.held_out if error.split == split), None)


class Comparison(Document):
    """All laws on one sample; `unfitted` says of the others why not."""

    kind: Kind
    name: str
    method: str
    recovery: str
    ratio: str
    laws: tuple[LawResult, ...]
    unfitted: dict[str, str] = Field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        return Scope(kind=self.kind, name=self.name, method=self.method, recovery=self.recovery)

    @property
    def best(self) -> LawResult | None:
        """The least held-out error at higher ratios; the least AIC where nothing could be held out."""
        tested = [(e.rmse_of_base, law) for law in self.laws if (e := law.error_of("higher ratios")) is not None]
        if tested:
            return min(tested, key=lambda pair: pair[0])[1]
        return min(self.laws, key=lambda law: law.fit.aic, default=None)

    def law(self, name: str) -> LawResult | None:
        return next((law for law in self.laws if law.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A study with all its comparisons; `fitted` keeps the bootstrap's sets by comparison and law, for intervals."""

    study: Study
    comparisons: tuple[Comparison, ...]
    fitted: Mapping[tuple[Scope, str], Fitted]

    def of(self, scope: Scope) -> Comparison | None:
        return next((c for c in self.comparisons if c.scope == scope and c.ratio == NOMINAL), None)


def analyse(
    study: Study,
    *,
    scale: Scale = "log",
    ratio: str = NOMINAL,
    replicates: int = REPLICATES,
    d_unit: float = MILLION,
    on: str | None = None,
) -> Analysis:
    """Fits losses and mean accuracies of all methods, or with `on` a single text's or task's alone; deterministic."""
    scopes = (*scopes_of(study, "loss"), *scopes_of(study, "accuracy", each_task=on in study.tasks))
    comparisons, fitted = [], {}
    for scope in scopes if on is None else [scope for scope in scopes if scope.name == on]:
        results, unfitted = [], {}
        for law, unit in _forms(d_unit):
            if unit == RAW and scope.recovery == NO_RECOVERY:
                continue
            try:
                sample = sample_of(study, scope, ratio, unit)
                found = fit_law(law, sample, scale, replicates=replicates)
            except ConfigError as error:
                unfitted[law.name] = str(error)
                continue
            result = _result(scope, law, found, sample, scale)
            results.append(result)
            fitted[scope, result.name] = found
        comparisons.append(_comparison(scope, ratio, results, unfitted))
    return Analysis(study=study, comparisons=tuple(comparisons), fitted=fitted)


def _forms(d_unit: float) -> tuple[tuple[Law, float], ...]:
    return tuple((law, d_unit if unit == MILLION else unit) for law, unit in _FORMS)


def _comparison(scope: Scope, ratio: str, results: list[LawResult], unfitted: dict[str, str]) -> Comparison:
    return Comparison(
        kind=scope.kind,
        name=scope.name,
        method=scope.method,
        recovery=scope.recovery,
        ratio=ratio,
        laws=tuple(results),
        unfitted=unfitted,
    )


def _result(scope: Scope, law: Law, found: Fitted, sample: Sample, scale: Scale) -> LawResult:
    errors = (held_out(law, sample, split, scale) for split in SPLITS)
    return LawResult(
        fit=found.fit,
        held_out=tuple(error for error in errors if error is not None),
        critical=tuple(_critical(found, KEPT[scope.kind])),
    )


def _critical(found: Fitted, kept: Iterable[float]) -> Iterator[CriticalRatio]:
    closed = _CLOSED_FORMS.get(found.fit.law)
    if closed is None:
        return
    for share in kept:
        ratio = closed(share, found.fit.values)
        spread = [at for values in found.spread if (at := closed(share, values)) is not None]
        if ratio is None:
            continue
        bounds = {}
        if spread:
            low, high = expanded_interval(np.array(spread), found.fit.clusters, len(found.fit.parameters))
            bounds = {"low": float(low), "high": float(high)}
        yield CriticalRatio(kept=share, ratio=ratio, **bounds)


_CLOSED_FORMS: Mapping[str, Callable[[float, Sequence[float]], float | None]] = {
    "v1": lambda kept, p: critical_ratio_v1(kept, p[1]),
    "v2": lambda kept, p: critical_ratio_v2(kept, p[0], p[1]),
}
