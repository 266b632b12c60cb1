"""Which points is a law fitted to? One quality of one method's variants, with one kind of recovery or with none.

The dense model itself is no point: every law passes through it, or near it, by its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from artifacts.errors import ConfigError
from artifacts.study import NO_RECOVERY, CellRecord
from artifacts.variant import Ratios
from laws.fits.sample import Sample
from laws.forms import MILLION, Array, Conditions, Floats
from laws.studies.records import MEAN_OF_TASKS, Study, accuracy_of, loss_of, method_label

Kind = Literal["loss", "accuracy", "score"]
NOMINAL = "nominal"
RATIO_KINDS = tuple(Ratios.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`kind` of value on `name` (a text or a task); `score` is 1 / loss, which the second paper takes for texts.

    `recovery` none: unrecovered variants alone; otherwise those and the ones recovered by it.
    """

    kind: Kind
    name: str
    method: str
    recovery: str = NO_RECOVERY

    @property
    def label(self) -> str:
        recovered = "" if self.recovery == NO_RECOVERY else f" + {self.recovery}"
        return f"{self.method}{recovered} · {self.name}"

    def holds(self, cell: CellRecord) -> bool:
        here = cell.ratio > 0 and method_label(cell) == self.method
        return here and cell.recovery in (NO_RECOVERY, self.recovery) and self.value_of(cell) is not None

    def value_of(self, cell: CellRecord) -> tuple[float, float] | None:
        """(value, the dense model's)."""
        if self.kind == "accuracy":
            return accuracy_of(cell, self.name)
        found = loss_of(cell, self.name)
        return (1 / found[0], 1 / found[1]) if found and self.kind == "score" else found


def scopes_of(study: Study, kind: Kind, each_task: bool = False) -> tuple[Scope, ...]:
    """Without recovery, then with each; accuracies as the mean of all tasks unless each is asked for."""
    tasks = study.tasks if each_task else (MEAN_OF_TASKS,) if study.tasks else ()
    names = tasks if kind == "accuracy" else study.loss_sets
    methods = dict.fromkeys(method_label(cell) for cell in study.cells if cell.ratio > 0)
    recoveries = dict.fromkeys((NO_RECOVERY, *(cell.recovery for cell in study.cells)))
    found = [
        Scope(kind=kind, name=name, method=method, recovery=recovery)
        for name in names
        for method in methods
        for recovery in recoveries
    ]
    return tuple(scope for scope in found if _is_there(study, scope))


def _is_there(study: Study, scope: Scope) -> bool:
    return any(scope.holds(cell) and cell.recovery == scope.recovery for cell in study.cells)


def cells_of(study: Study, scope: Scope) -> tuple[CellRecord, ...]:
    return tuple(cell for cell in study.cells if scope.holds(cell))


def sample_of(study: Study, scope: Scope, ratio: str = NOMINAL, d_unit: float = MILLION) -> Sample:
    """`ratio` is which of a variant's ratios stands for r. Raises ConfigError where no cell has it."""
    cells = [cell for cell in cells_of(study, scope) if 0 < (_ratio_of(cell, ratio) or 0) < 1]
    if not cells:
        raise ConfigError(f"No cell of {scope.label} has the ratio {ratio!r}. Ratios are {', '.join(RATIO_KINDS)}.")
    values = np.array([scope.value_of(cell) for cell in cells], dtype=float)
    return Sample(
        at=Conditions(
            base=values[:, 1],
            ratio=np.array([_ratio_of(cell, ratio) for cell in cells]),
            tokens=np.array([cell.recovery_tokens for cell in cells], dtype=float),
            base_params=_counts([cell.base_params for cell in cells]),
            params=_counts([cell.params for cell in cells]),
            d_unit=d_unit,
        ),
        observed=values[:, 0],
        clusters=_parents([(cell.model, cell.ratio, cell.seed) for cell in cells]),
        models=np.array([cell.model for cell in cells]),
    )


def _ratio_of(cell: CellRecord, ratio: str) -> float | None:
    if ratio == NOMINAL:
        return cell.ratio
    return getattr(cell.ratios, ratio) if cell.ratios else None


def _parents(keys: Sequence[tuple[str, float, int]]) -> Array:
    """A number for each pruned model: what was recovered from it varies with it."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def _counts(counts: Sequence[int | None]) -> Floats:
    return np.array([np.nan if count is None else count for count in counts], dtype=float)
