"""What does a study hold? Its cells, found from a folder or from the study's file, and how they are grouped.

A variant is one point of the study without its seed: what one would build. Speeds are measured once per shape: a
recovered variant is as fast as its parent, and so are variants of other methods that keep as much of every layer, for
an engine does not know which channels they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from artifacts.errors import ConfigError
from artifacts.study import NO_RECOVERY, CellRecord, SpeedAt, StudyFile, load_cells

CELLS_NAME = "cells"
STUDY_NAME = "study.json"
MEAN_OF_TASKS = "mean of all tasks"
_SUFFIX = ".study"
_DATA_FREE = ("random", "magnitude", "prunenet")

Footprint = tuple[str, int, tuple[float, ...]]
_UNIFORM = "uniform"


class ShapeKey(NamedTuple):
    """Cells that differ in training and seed alone have one."""

    model: str
    method: str
    ratio: float
    allocation: str
    repair: str
    calibration: str


class VariantKey(NamedTuple):
    """Cells that differ in the seed alone have one."""

    model: str
    method: str
    ratio: float
    allocation: str
    repair: str
    calibration: str
    recovery: str
    recovery_tokens: int


@dataclass(frozen=True)
class Study:
    """Cells in the order of their names. `file` is what was asked for, where the folder still has it."""

    folder: Path
    cells: tuple[CellRecord, ...]
    failed: tuple[CellRecord, ...]
    file: StudyFile | None

    @property
    def title(self) -> str:
        return self.file.title if self.file else self.folder.name.removesuffix(_SUFFIX)

    @cached_property
    def variants(self) -> dict[VariantKey, tuple[CellRecord, ...]]:
        """The cells of each variant, one per seed."""
        found: dict[VariantKey, list[CellRecord]] = {}
        for cell in self.cells:
            found.setdefault(variant_key(cell), []).append(cell)
        return {key: tuple(cells) for key, cells in found.items()}

    @cached_property
    def speeds(self) -> dict[ShapeKey, tuple[SpeedAt, ...]]:
        found: dict[ShapeKey, tuple[SpeedAt, ...]] = {}
        for cell in self.cells:
            found[shape_key(cell)] = found.get(shape_key(cell), ()) + cell.speeds
        return found

    @cached_property
    def _by_footprint(self) -> dict[Footprint, tuple[CellRecord, ...]]:
        found: dict[Footprint, tuple[CellRecord, ...]] = {}
        for cell in self.cells:
            if cell.speeds and (footprint := footprint_of(cell)) is not None:
                found[footprint] = (*found.get(footprint, ()), cell)
        return found

    def timed_as(self, cell: CellRecord, level: str) -> CellRecord | None:
        """The cell of another variant with the same tensor shapes whose speed was measured at the level."""
        footprint = footprint_of(cell)
        alike = self._by_footprint.get(footprint, ()) if footprint else ()
        return next((twin for twin in alike if any(row.level == level for row in twin.speeds)), None)

    @cached_property
    def loss_sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(loss.set for cell in self.cells for loss in cell.losses))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.task for cell in self.cells for row in cell.accuracies))

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that prune."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells if cell.ratio > 0))

    def needs_data(self, method: str) -> bool:
        """Whether the method read a calibration text; by its name, where the study's file is not at hand."""
        asked = next((m for m in self.file.methods if m.name == method), None) if self.file else None
        return asked.calibrated if asked else not method.startswith(_DATA_FREE)

    def params_of(self, model: str) -> int | None:
        """Of the dense model."""
        return next((cell.base_params for cell in self.cells if cell.model == model and cell.base_params), None)


def read_study(path: Path) -> Study:
    """From a study's folder, or the file that it was run from. Raises ConfigError where there are no cells."""
    folder = study_folder(path)
    if not (folder / CELLS_NAME).is_dir():
        raise ConfigError(f"{folder} holds no {CELLS_NAME}/. Give the folder that `prunebench study run` wrote.")
    cells = load_cells(folder)
    done = tuple(cell for cell in cells if cell.status == "done")
    if not done:
        raise ConfigError(f"No cell of {folder} is done. Run `prunebench study run` until some are.")
    file = folder / STUDY_NAME
    asked = StudyFile.load(path) if path.suffix == ".toml" else StudyFile.load(file) if file.is_file() else None
    return Study(folder, done, tuple(cell for cell in cells if cell.status == "failed"), asked)


def study_folder(path: Path) -> Path:
    """A study's working folder, from itself or from the study's file."""
    return path.with_suffix(_SUFFIX) if path.suffix == ".toml" else path


def on_hardware(study: Study, name: str | None) -> Study:
    """With the speeds alone that were measured on hardware with `name` in its name; all of them for None.

    Raises ConfigError where none were.
    """
    if name is None:
        return study
    cells = tuple(
        cell if name.lower() in measured_on([cell]).lower() else cell.model_copy(update={"speeds": ()})
        for cell in study.cells
    )
    if not any(cell.speeds for cell in cells):
        raise ConfigError(f"No speed was measured on {name!r}, but on {measured_on(study.cells)}.")
    return replace(study, cells=cells)


def variant_key(cell: CellRecord) -> VariantKey:
    return VariantKey(*shape_key(cell), cell.recovery, cell.recovery_tokens)


def shape_key(cell: CellRecord) -> ShapeKey:
    return ShapeKey(cell.model, cell.method, cell.ratio, cell.allocation, cell.repair, cell.calibration or "")


def footprint_of(cell: CellRecord) -> Footprint | None:
    """Equal for equal tensor shapes: the parameters, and what is left of blocks, KV cache and operations, to the last.

    None where sums do not tell shapes: with an allocation that is not uniform, and for a dense model or its twin.
    """
    if cell.ratio == 0 or cell.allocation != _UNIFORM or cell.params is None or cell.ratios is None:
        return None
    left = cell.ratios.model_dump(exclude={"nominal"})
    return cell.model, cell.params, tuple(left.values())


def method_label(cell: CellRecord) -> str:
    """The method, with its allocation and repair where they are not the plain ones, and its text of several."""
    extras = [x for x, plain in ((cell.allocation, _UNIFORM), (cell.repair, "none")) if x != plain]
    extras += [f"calibrated on {cell.calibration}"] if cell.calibration else []
    return f"{cell.method} ({', '.join(extras)})" if extras else cell.method


def variant_name(key: VariantKey) -> str:
    """`qwen random 0.3, lora 5 M`, for people."""
    name = key.model if key.ratio == 0 and key.method == "dense" else f"{key.model} {key.method} {key.ratio:g}"
    name += f" calibrated on {key.calibration}" if key.calibration else ""
    return name if key.recovery == NO_RECOVERY else f"{name}, {key.recovery} {key.recovery_tokens / 1e6:g} M tokens"


def accuracy_of(cell: CellRecord, task: str) -> tuple[float, float] | None:
    """(accuracy, the dense model's) on a task, or over all tasks of the cell (`MEAN_OF_TASKS`)."""
    rows = [row for row in cell.accuracies if task in (row.task, MEAN_OF_TASKS)]
    return (fmean(r.accuracy for r in rows), fmean(r.base_accuracy for r in rows)) if rows else None


def loss_of(cell: CellRecord, name: str) -> tuple[float, float] | None:
    """(loss, the dense model's) in nats per token on a text."""
    row = next((row for row in cell.losses if row.set == name), None)
    return (row.loss_nats, row.base_loss_nats) if row else None


def hardware_of(cell: CellRecord) -> str:
    where = cell.provenance
    return ", ".join(where.gpus) or f"{where.cpu or 'unknown processor'}, {where.cpu_cores} cores"


def measured_on(cells: Iterable[CellRecord]) -> str:
    """Hardware and commits of the cells, for the line below a number."""
    given = list(cells)
    hardware = dict.fromkeys(hardware_of(cell) for cell in given)
    made = [cell.provenance for cell in given]
    commits = dict.fromkeys((p.commit or "no commit")[:12] + ("+" if p.commit_dirty else "") for p in made)
    return f"{'; '.join(hardware)}; commit {', '.join(commits)}"
