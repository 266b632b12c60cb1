"""What do several studies say together? One may know a variant's losses and another its speeds.

Cells at the same coordinates become one, with the losses, accuracies and speeds of both. That is sound only where both
mean the same, so everything that can be compared is: the dense model's size and loss, the methods' settings, and how
many parameters a variant has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from math import isclose
from pathlib import Path
from typing import TypeVar

from artifacts.errors import ConfigError
from artifacts.study import CellRecord, Coordinates, StudyFile, StudyMethod
from laws.studies.records import Study, hardware_of, read_study

_SAME_LOSS = 0.01
"""Of the dense loss: what another processor's arithmetic may make of it."""
Row = TypeVar("Row")


def read_studies(paths: Sequence[Path]) -> Study:
    """Raises ConfigError for folders without cells, and for studies that give one name to different things."""
    return reduce(join, [read_study(path) for path in paths])


def join(one: Study, other: Study) -> Study:
    """Where both have measured the same thing, the first study's value stands. Raises ConfigError as above."""
    theirs = {_place(cell): cell for cell in other.cells}
    for cell in one.cells:
        if (twin := theirs.get(_place(cell))) is not None:
            _require_same(cell, twin)
    _require_same_methods(_methods(one.file), _methods(other.file))
    own = {_place(cell) for cell in one.cells}
    cells = (
        *(_united(cell, theirs[_place(cell)]) if _place(cell) in theirs else cell for cell in one.cells),
        *(cell for cell in other.cells if _place(cell) not in own),
    )
    known = {_place(cell) for cell in cells}
    failed = tuple(cell for cell in (*one.failed, *other.failed) if _place(cell) not in known)
    return replace(one, cells=cells, failed=failed, file=_both_files(one, other))


def require_one_machine(study: Study) -> Study:
    """Raises ConfigError if the study's speeds come from different hardware, for then they cannot be compared."""
    found = dict.fromkeys(hardware_of(cell) for cell in study.cells if cell.speeds)
    if len(found) > 1:
        raise ConfigError(f"Speeds were measured on {' and on '.join(found)}. Choose one of them with --gpu.")
    return study


def _place(cell: CellRecord) -> Coordinates:
    return Coordinates(**{name: getattr(cell, name) for name in Coordinates.model_fields})


def _united(one: CellRecord, other: CellRecord) -> CellRecord:
    changes = {
        "losses": _first_of_each(one.losses + other.losses, lambda row: row.set),
        "accuracies": _first_of_each(one.accuracies + other.accuracies, lambda row: row.task),
        "speeds": _first_of_each(one.speeds + other.speeds, lambda row: (row.mode, row.level, row.quantity)),
    }
    return one.model_copy(update=changes)


def _first_of_each(rows: Iterable[Row], key: Callable[[Row], object]) -> tuple[Row, ...]:
    found: dict[object, Row] = {}
    for row in rows:
        found.setdefault(key(row), row)
    return tuple(found.values())


def _require_same(one: CellRecord, other: CellRecord) -> None:
    where = f"{one.model} {one.method} {one.ratio:g}"
    advice = "Give different models and methods different names"
    for name in ("base_params", "params"):
        sizes = getattr(one, name), getattr(other, name)
        if None not in sizes and sizes[0] != sizes[1]:
            raise ConfigError(f"{where} has {sizes[0]} {name} in one study and {sizes[1]} in another. {advice}.")
    theirs = {row.set: row.base_loss_nats for row in other.losses}
    for row in one.losses:
        dense = theirs.get(row.set, row.base_loss_nats)
        if not isclose(dense, row.base_loss_nats, rel_tol=_SAME_LOSS):
            told = f"{row.base_loss_nats:.4g} nats on {row.set} in one study and {dense:.4g} in another"
            raise ConfigError(f"The dense {one.model} loses {told}. {advice}, or use the same text.")


def _methods(file: StudyFile | None) -> dict[str, StudyMethod]:
    return {method.name: method for method in file.methods} if file else {}


def _require_same_methods(one: dict[str, StudyMethod], other: dict[str, StudyMethod]) -> None:
    """What narrows where a method is used may differ, and how widths are rounded if no variant's size shows it."""
    narrowing = {"ratios": None, "seeds": None, "models": None, "multiple_of": None}
    for name in one.keys() & other.keys():
        if one[name].model_copy(update=narrowing) != other[name].model_copy(update=narrowing):
            raise ConfigError(f"Method {name!r} has different settings in two studies. Rename it in one of them.")


def _both_files(one: Study, other: Study) -> StudyFile | None:
    if one.file is None or other.file is None:
        return one.file or other.file
    methods = {**_methods(other.file), **_methods(one.file)}
    title = f"{one.title}; {other.title}"
    return one.file.model_copy(update={"title": title, "methods": tuple(methods.values())})
