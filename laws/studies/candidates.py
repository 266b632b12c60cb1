"""What can be deployed? All arms of a study on equal terms: dense, large and small, pruned, recovered, quantised.

Quality is measured against one reference model on the same text (with as many tokens, which means with the same
tokenizer) or the same task. Speed is the paired speed-up over the own dense model, times that model's typical speed: so
a machine that was slower on one day does not decide between two variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.student import half_width
from artifacts.study import CellRecord, SpeedAt
from laws.normal import NORMAL_95, share_half_width
from laws.studies.records import (
    MEAN_OF_TASKS,
    Study,
    VariantKey,
    accuracy_of,
    loss_of,
    shape_key,
    variant_key,
    variant_name,
)
from laws.studies.speeds import speaking_quantity


class Candidate(Document):
    """One variant. `rise` is what it loses on the text or task, in nats or in accuracy; `speed` is relative to the
    reference model at the level, measured on the variant `timed_as` if that is another one of the same shapes.
    `latencies_s` are what an SLO looks at."""

    name: str
    model: str
    method: str
    ratio: float
    recovery: str
    recovery_tokens: int
    params: int | None
    quality: float
    rise: float
    rise_low: float | None
    rise_high: float | None
    speed: float
    speed_low: float | None
    speed_high: float | None
    timed_as: str | None = None
    requests_per_s: float | None
    latencies_s: dict[str, float]
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The candidates at one level, and who was left out and why.

    `bases` are the dense models' own values, `scales` their speeds beside the reference's, for the models compared.
    """

    reference: str
    bases: dict[str, float]
    scales: dict[str, float]
    level: str
    on: str
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]


def levels_of(study: Study) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.level for rows in study.speeds.values() for row in rows))


def gather(study: Study, level: str, on: str | None = None, reference: str | None = None) -> Field:
    """`on` is a text or a task, by default the first text there is; `reference` by default the largest dense model.

    Raises ConfigError for names that the study does not have.
    """
    name = quality_name(study, on)
    model = _reference(study, reference)
    base = _base_value(study, model, name)
    found, left_out = [], {}
    for key, cells in study.variants.items():
        reason = _obstacle(study, cells, name, model, level)
        if reason is not None:
            left_out[variant_name(key)] = reason
        else:
            found.append(_candidate(study, key, cells, name, (model, base), level))
    models = tuple(dict.fromkeys(candidate.model for candidate in found))
    return Field(
        reference=model,
        bases={each: _base_value(study, each, name) for each in models} | {model: base},
        scales={each: _scale(study, each, model, level) for each in models},
        level=level,
        on=name,
        candidates=tuple(found),
        left_out=left_out,
    )


def quality_name(study: Study, on: str | None) -> str:
    """The text or task asked for, by default the first text. Raises ConfigError if the study has not got it."""
    known = (*study.loss_sets, *study.tasks, *((MEAN_OF_TASKS,) if study.tasks else ()))
    name = on or next(iter(known), None)
    if name is None or name not in known:
        raise ConfigError(f"The study has no quality on {name!r}. It has {', '.join(known) or 'none at all'}.")
    return name


def _reference(study: Study, asked: str | None) -> str:
    if asked is not None and asked not in study.models:
        raise ConfigError(f"The study has no model {asked!r}. It has {', '.join(study.models)}.")
    return asked or max(study.models, key=lambda model: study.params_of(model) or 0)


def _base_value(study: Study, model: str, name: str) -> float:
    values = [pair[1] for cell in study.cells if cell.model == model and (pair := quality_of(cell, name))]
    if not values:
        raise ConfigError(f"{model} was not measured on {name}. Choose another --on or --reference.")
    return values[0]


def quality_of(cell: CellRecord, name: str) -> tuple[float, float] | None:
    return loss_of(cell, name) or accuracy_of(cell, name)


def is_accuracy(study: Study, name: str) -> bool:
    return name not in study.loss_sets


def _obstacle(study: Study, cells: Sequence[CellRecord], name: str, model: str, level: str) -> str | None:
    """Why a variant cannot be compared; None if it can."""
    if not any(quality_of(cell, name) for cell in cells):
        return f"not measured on {name}"
    if not is_accuracy(study, name) and _tokens(cells, name) != _tokens(
        [cell for cell in study.cells if cell.model == model], name
    ):
        return f"its tokenizer differs from {model}'s, and so do nats per token"
    if not _rows(study, cells[0], level):
        return f"its speed was not measured at {level}"
    return None


def _tokens(cells: Iterable[CellRecord], name: str) -> set[int]:
    return {loss.tokens for cell in cells for loss in cell.losses if loss.set == name}


def _rows(study: Study, cell: CellRecord, level: str) -> tuple[SpeedAt, ...]:
    """A dense model stands in the records of its variants, as what they are compared with."""
    own = [row for row in study.speeds.get(shape_key(cell), ()) if row.level == level]
    if own or cell.is_dense:
        return tuple(own) or _as_dense(study, cell.model, level)
    twin = study.timed_as(cell, level)
    return () if twin is None else tuple(row for row in twin.speeds if row.level == level)


def _as_dense(study: Study, model: str, level: str) -> tuple[SpeedAt, ...]:
    rows = [row for cell in study.cells if cell.model == model for row in cell.speeds if row.level == level]
    found = []
    for quantity in dict.fromkeys(row.quantity for row in rows):
        alike = [row for row in rows if row.quantity == quantity and row.base_value is not None]
        if alike:
            typical = median(row.base_value for row in alike if row.base_value is not None)
            same = {"speedup": 1.0, "low": 1.0, "high": 1.0, "base_value": typical, "value": typical}
            found.append(alike[0].model_copy(update=same))
    return tuple(found)


def _candidate(
    study: Study, key: VariantKey, cells: Sequence[CellRecord], name: str, reference: tuple[str, float], level: str
) -> Candidate:
    rows = {row.quantity: row for row in _rows(study, cells[0], level)}
    headline = next(row for row in rows.values() if row.quantity == speaking_quantity(row))
    scale = _scale(study, key.model, reference[0], level)
    quality = fmean(pair[0] for cell in cells if (pair := quality_of(cell, name)))
    sign = -1 if is_accuracy(study, name) else 1
    half = _half_width(study, cells, name)
    rise = sign * (quality - reference[1])
    return Candidate(
        name=variant_name(key),
        model=key.model,
        method=key.method,
        ratio=key.ratio,
        recovery=key.recovery,
        recovery_tokens=key.recovery_tokens,
        params=cells[0].params,
        quality=quality,
        rise=rise,
        rise_low=None if half is None else rise - half,
        rise_high=None if half is None else rise + half,
        speed=headline.speedup * scale,
        speed_low=None if headline.low is None else headline.low * scale,
        speed_high=None if headline.high is None else headline.high * scale,
        timed_as=_timed_as(study, cells[0], level),
        requests_per_s=rows["requests_per_s"].value if "requests_per_s" in rows else None,
        latencies_s={quantity: row.value for quantity, row in rows.items() if row.unit == "s" and row.value},
        cells=tuple(cell.cell for cell in cells),
    )


def _timed_as(study: Study, cell: CellRecord, level: str) -> str | None:
    """The name of the variant that lends its speed, if one does."""
    if any(row.level == level for row in study.speeds.get(shape_key(cell), ())):
        return None
    twin = study.timed_as(cell, level)
    return None if twin is None else variant_name(variant_key(twin))


def _scale(study: Study, model: str, reference: str, level: str) -> float:
    """How fast the dense model is beside the dense reference."""
    rows = next(rows for cell in study.cells if cell.model == model and (rows := _rows(study, cell, level)))
    headline = next(row for row in rows if row.quantity == speaking_quantity(row))
    return _typical_speed(study, model, headline) / _typical_speed(study, reference, headline)


def _typical_speed(study: Study, model: str, like: SpeedAt) -> float:
    """The dense model's, per second: the median of all that it was compared with. 1 where no value was kept."""
    values = [
        row.base_value
        for cell in study.cells
        if cell.model == model
        for row in cell.speeds
        if (row.level, row.quantity) == (like.level, like.quantity) and row.base_value
    ]
    if not values:
        return 1.0
    return 1 / median(values) if like.unit == "s" else median(values)


def _half_width(study: Study, cells: Sequence[CellRecord], name: str) -> float | None:
    """Student's over seeds; for one seed the standard error of the text's windows or of the task's questions."""
    values = [pair[0] for cell in cells if (pair := quality_of(cell, name))]
    if cells[0].is_dense:
        return 0.0
    if len(values) > 1:
        return half_width(values)
    if is_accuracy(study, name):
        items = sum(row.items for row in cells[0].accuracies if name in (row.task, MEAN_OF_TASKS))
        return share_half_width(values[0], items)
    errors = [loss.standard_error_nats for loss in cells[0].losses if loss.set == name]
    return NORMAL_95 * errors[0] if errors and errors[0] is not None else None
