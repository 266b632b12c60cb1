"""What would a ratio give that nobody has built? The best fitted law for its quality, Amdahl's for its speed.

Intervals hold the doubt about the parameters and the scatter of single variants around the law.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from artifacts.document import Document
from artifacts.errors import ConfigError
from laws.critical import along_ratios
from laws.fits.bootstrap import expanded_interval
from laws.fits.fit import Fitted, fit_law
from laws.fits.sample import Sample
from laws.forms import TIME_SHARE, Conditions, Floats
from laws.normal import NORMAL_95
from laws.studies.candidates import Field, is_accuracy
from laws.studies.comparison import RAW, Analysis, Comparison, LawResult
from laws.studies.records import Study, footprint_of, method_label
from laws.studies.speeds import SpeedPoint, speed_points

GRID = np.round(np.arange(0.05, 0.91, 0.05), 2)
_NEAR = 0.02


class Prediction(Document):
    """A variant that is not in the study. `speed` is beside the dense reference; None where it has no fitted law."""

    model: str
    method: str
    recovery: str
    recovery_tokens: int
    ratio: float
    law: str
    held_out_error: float | None
    rise: float
    rise_low: float
    rise_high: float
    speed: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None


def predictions(analysis: Analysis, field: Field) -> Iterator[Prediction]:
    """For every model, method and budget of the field, at ratios that were not built."""
    for comparison in analysis.comparisons:
        law = comparison.best
        found = analysis.fitted.get((comparison.scope, law.name)) if law else None
        if comparison.name != field.on or found is None or law is None or not found.spread:
            continue
        for (model, tokens), ratios in _built(analysis, comparison, field).items():
            new = np.array([r for r in GRID if all(abs(r - seen) > _NEAR for seen in ratios)])
            if len(new):
                arm = {"model": model, "recovery_tokens": tokens}
                yield from _of_arm(analysis, field, comparison, (law, found), arm, new)


def _of_arm(
    analysis: Analysis,
    field: Field,
    comparison: Comparison,
    fitted: tuple[LawResult, Fitted],
    arm: Mapping[str, Any],
    ratios: Floats,
) -> Iterator[Prediction]:
    law, found = fitted
    error = law.error_of("higher ratios")
    quality = _quality(analysis, found, field, ratios, arm["model"], arm["recovery_tokens"])
    speeds = _speeds(analysis, comparison.method, field, ratios, arm["model"])
    for index, ratio in enumerate(ratios):
        rise = dict(zip(_RISE_FIELDS, map(float, quality[:, index]), strict=True))
        fast = {} if speeds is None else dict(zip(_SPEED_FIELDS, map(float, speeds[:, index]), strict=True))
        told = {"law": law.name, "held_out_error": error.rmse_of_base if error else None}
        where = {"method": comparison.method, "recovery": comparison.recovery, "ratio": float(ratio)}
        yield Prediction.parse({**arm, **where, **told, **rise, **fast}, "a prediction")


_RISE_FIELDS = ("rise", "rise_low", "rise_high")
_SPEED_FIELDS = ("speed", "speed_low", "speed_high")


def _built(analysis: Analysis, comparison: Comparison, field: Field) -> dict[tuple[str, int], set[float]]:
    """The ratios that are there, by model and tokens: of the comparison's recovery alone, or of none."""
    found: dict[tuple[str, int], set[float]] = {}
    for cell in analysis.study.cells:
        if cell.model in field.bases and comparison.scope.holds(cell) and cell.recovery == comparison.recovery:
            found.setdefault((cell.model, cell.recovery_tokens), set()).add(cell.ratio)
    return found


def _quality(analysis: Analysis, found: Fitted, field: Field, ratios: Floats, model: str, tokens: int) -> Floats:
    """(rise, low, high) by ratio: (3, ratios)."""
    at = along_ratios(ratios, field.bases[model], tokens, found.fit.d_unit)
    law, sets = found.fit.form, found.sets
    scatter = np.random.default_rng(0).standard_normal((len(sets), len(ratios))) * found.fit.residual_rms
    drawn = law(sets, at)
    drawn = drawn * np.exp(scatter) if found.fit.scale == "log" else drawn + scatter
    ends = expanded_interval(drawn, found.fit.clusters, len(found.fit.parameters))
    rises = np.stack([np.asarray(law(found.fit.values, at)), *ends]) - field.bases[field.reference]
    return -rises[[0, 2, 1]] if is_accuracy(analysis.study, field.on) else rises


def _speeds(analysis: Analysis, method: str, field: Field, ratios: Floats, model: str) -> Floats | None:
    """(speed, low, high) by ratio, beside the reference; None where the model has too few speeds at this level."""
    law = fit_time_share(_points(analysis.study, method, field.level, model))
    if law is None:
        return None
    parameter = law.fit.parameter("f")
    shares = (parameter.value, parameter.t_low or 0.0, parameter.t_high or 0.0)
    at = along_ratios(ratios, field.scales[model], 0, RAW)
    value, low, high = (np.asarray(TIME_SHARE([share], at)) for share in shares)
    half = np.hypot(np.log(high / low) / 2, NORMAL_95 * law.fit.residual_rms)
    return np.stack([value, value * np.exp(-half), value * np.exp(half)])


def _points(study: Study, method: str, level: str, model: str) -> list[SpeedPoint]:
    """Of the method itself, or of others where they have its shapes."""
    there = [point for point in speed_points(study) if (point.cell.model, point.at.level) == (model, level)]
    own = [point for point in there if point.method == method]
    shapes = {footprint_of(cell) for cell in study.cells if method_label(cell) == method} - {None}
    return own or list(
        {footprint_of(point.cell): point for point in there if footprint_of(point.cell) in shapes}.values()
    )


def fit_time_share(points: list[SpeedPoint]) -> Fitted | None:
    """The share of the time that shrinks with r, from the speed-ups of one model at one level."""
    ratios = np.array([point.cell.ratio for point in points], dtype=float)
    same = np.ones(len(points))
    at = Conditions(base=same, ratio=ratios, tokens=0 * same, base_params=same, params=same, d_unit=RAW)
    observed = np.array([point.at.speedup for point in points], dtype=float)
    sample = Sample(at=at, observed=observed, clusters=np.arange(len(points)), models=same)
    try:
        return fit_law(TIME_SHARE, sample, replicates=0)
    except ConfigError:
        return None
