"""Where does a cell's checkpoint come from, and how long does it stay?

The compressed checkpoint of a group of cells is made once and stands in the scratch folder until the group's last cell
is done; a recovered one until its own cell is. So a worker holds two checkpoints at most beside the dense model. Both
are made in this process and under names that mean a complete result, so a killed cell goes on from what it left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically
from artifacts.progress import Progress
from artifacts.study import DEMO
from artifacts.variant import Footprint, Ratios, VariantManifest, is_variant, load_variant
from compressors.drawn_shape import write_drawn_shape
from compressors.pipeline import compress
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.request import CompressionRequest
from compressors.source import open_source
from compressors.verify import verify_variant
from prunebench.demo_plan import MODEL_DIR
from prunebench.study.demo_corpus import PREFIX, QUESTIONS, demo_text, line_end_questions
from prunebench.study.plan import CellPlan

Watch = Callable[[str], AbstractContextManager[None]]
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder that can be loaded or served; `drawn` ones have no weights. `engine_flags` are for its engine."""

    folder: Path
    footprint: Footprint
    ratios: Ratios | None
    drawn: bool = False
    engine_flags: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        return self.footprint.params_total


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A cell on this machine: where its texts and checkpoints are."""

    plan: CellPlan
    folder: Path
    scratch: Path
    device: Literal["cpu", "cuda"]

    @classmethod
    def of(cls, plan: CellPlan, folder: Path, scratch: Path) -> Place:
        return cls(plan=plan, folder=folder, scratch=scratch, device="cuda" if plan.device == "cuda" else "cpu")

    @property
    def compressed(self) -> Path:
        return self.scratch / f"{self.plan.model.name}-{self.plan.group}"

    @property
    def recovered(self) -> Path:
        return self.scratch / self.plan.cell

    @property
    def source(self) -> str:
        """The dense model's folder or hub id; of a drawn shape the folder that `open_base` writes."""
        if self.plan.model.config is not None:
            return str(self.scratch / f"{self.plan.model.name}-dense")
        source = str(self.plan.model.source)
        if source == DEMO:
            return str(MODEL_DIR)
        local = self.folder / source
        return str(local) if local.is_dir() else source

    def text(self, name: str) -> Path:
        """A file with the text; parts of the demo's corpus are written into the scratch folder."""
        if not name.startswith(PREFIX):
            return self.folder / name
        return self._written(name, ".txt", demo_text)

    def corpus(self, name: str) -> str:
        """Like `text`, but a hub data set's name stays one."""
        is_file = name.startswith(PREFIX) or (self.folder / name).is_file()
        return str(self.text(name)) if is_file else name

    def task(self, source: str) -> str:
        if source == QUESTIONS:
            return str(self._written(source, ".jsonl", lambda _: line_end_questions()))
        local = self.folder / source
        return str(local) if local.is_file() else source

    def _written(self, name: str, suffix: str, content: Callable[[str], str]) -> Path:
        path = self.scratch / f"{name.replace(':', '-')}-{self.plan.sources[name][:_DIGITS]}{suffix}"
        if not path.is_file():
            write_text_atomically(path, content(name))
        return path

    def clear(self, *, keeps_compressed: bool) -> None:
        """Removes what this cell needed and no other does."""
        shutil.rmtree(self.recovered, ignore_errors=True)
        if not keeps_compressed and self.plan.is_pruned:
            shutil.rmtree(self.compressed, ignore_errors=True)


def open_base(place: Place) -> Checkpoint:
    """Raises what opening the model raises. The folder of a hub id is its snapshot here."""
    config = place.plan.model.config
    if config is not None:
        folder = Path(place.source)
        shutil.rmtree(folder, ignore_errors=True)
        return Checkpoint(folder=folder, footprint=write_drawn_shape(config, folder), ratios=None, drawn=True)
    source = open_source(place.source)
    ratios = Ratios.between(0.0, source.footprint, source.footprint)
    return Checkpoint(folder=source.folder, footprint=source.footprint, ratios=ratios)


def make_checkpoint(place: Place, base: Checkpoint, watch: Watch, progress: Progress) -> Checkpoint:
    """What the cell is about. Raises what compress and recover raise."""
    method = place.plan.method
    if method is None or method.method is None:
        return replace(base, engine_flags=() if method is None else method.engine_flags)
    if base.drawn:
        return _drawn(place, base)
    with watch("compress"):
        manifest = _compressed(place, progress)
    folder = place.compressed
    if place.plan.recovery is not None:
        with watch("recover"):
            manifest = _recovered(place, base, progress)
        folder = place.recovered
    return Checkpoint(
        folder=folder,
        footprint=manifest.footprint,
        ratios=manifest.ratios,
        engine_flags=method.engine_flags,
    )


def _drawn(place: Place, base: Checkpoint) -> Checkpoint:
    plan = place.plan
    if plan.method is None or plan.model.config is None:
        raise ConfigError(f"{plan.cell} names no method and no shape. Give both.")
    shutil.rmtree(place.compressed, ignore_errors=True)
    footprint = write_drawn_shape(
        plan.model.config,
        place.compressed,
        ratio=plan.at.ratio,
        units=plan.method.units,
        allocation=plan.method.allocation,
        multiple_of=plan.method.multiple_of,
    )
    return Checkpoint(
        folder=place.compressed,
        footprint=footprint,
        ratios=Ratios.between(plan.at.ratio, base.footprint, footprint),
        drawn=True,
        engine_flags=plan.method.engine_flags,
    )


def _compressed(place: Place, progress: Progress) -> VariantManifest:
    plan, method = place.plan, place.plan.method
    if is_variant(place.compressed):
        return load_variant(place.compressed)
    if method is None or method.method is None:
        raise ConfigError(f"{plan.cell} names no method. Give one.")
    request = CompressionRequest(
        model=place.source,
        out=place.compressed,
        method=method.method,
        ratio=plan.at.ratio,
        units=method.units,
        calibration=None if plan.calibration is None else place.corpus(plan.calibration),
        calibration_tokens=plan.calibration_tokens,
        seed=plan.at.seed,
        multiple_of=method.multiple_of,
        repair=method.repair,
        allocation=method.allocation,
        budget=method.budget,
        device=place.device,
    )
    return compress(request, progress, verify=verify_variant)


def _recovered(place: Place, base: Checkpoint, progress: Progress) -> VariantManifest:
    plan, recovery = place.plan, place.plan.recovery
    if recovery is None or plan.training is None:
        raise ConfigError(f"{plan.cell} names no recovery or no training text. Give both.")
    if is_variant(place.recovered):
        return load_variant(place.recovered)
    request = RecoveryRequest(
        variant=place.compressed,
        out=place.recovered,
        method=recovery.method,
        text=place.text(plan.training),
        teacher=base.folder,
        tokens=plan.at.recovery_tokens,
        batch_tokens=recovery.batch_tokens,
        learning_rate=recovery.learning_rate,
        seed=plan.at.seed,
        device=place.device,
    )
    return recover(request, progress, verify=verify_variant)
