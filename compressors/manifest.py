"""Everything that `variant.json` says about a variant, gathered from what was asked, what was done and the files."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.files import sha256_of_file
from artifacts.progress import Progress
from artifacts.provenance import package_versions
from artifacts.variant import (
    AllocationRef,
    BaseModelRef,
    CalibrationRef,
    CompressionCost,
    LayerShape,
    MethodRef,
    Ratios,
    VariantManifest,
)
from compressors.export import PROBE_NAME
from compressors.footprint import footprint_of_folder
from compressors.masks import Pattern
from compressors.peak_memory import peak_bytes, restart_peak
from compressors.plan import Plan
from compressors.relabel import is_uniform
from compressors.sequential import PruningJob
from compressors.source import Source, is_tied, read_config
from compressors.sparsity import sparsity_of_folder

# What reads and writes every checkpoint.
VERSIONED = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy")


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, in the order the stages ran."""

    started_s: float = field(default_factory=time.perf_counter)
    stages_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        restart_peak()

    @contextmanager
    def stage(self, name: str, progress: Progress) -> Iterator[None]:
        progress(name, 0, 1)
        before = time.perf_counter()
        yield
        self.stages_s[name] = time.perf_counter() - before
        progress(name, 1, 1)

    def cost(self) -> CompressionCost:
        """Up to now. The peak is that of this process since the watch was started, libraries included."""
        wall_s = time.perf_counter() - self.started_s
        return CompressionCost(wall_s=wall_s, peak_memory_bytes=peak_bytes(), stages_s=dict(self.stages_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a variant came to be: source, resolved job and allocation, text, and the layers' shapes after the cut.

    `ratio` is of whole units; with a `pattern` there are none and single weights went.
    """

    name: str
    ratio: float
    multiple_of: int
    source: Source
    job: PruningJob
    allocation: AllocationRef
    calibration: CalibrationRef | None
    layers: tuple[LayerShape, ...]
    architecture: str
    pattern: Pattern | None = None


def shapes_after(plan: Plan, query_heads_per_group: int) -> tuple[LayerShape, ...]:
    """One entry per layer of the base model; a removed half counts no units."""
    return tuple(
        LayerShape(
            index=index,
            present=kept.present,
            query_heads=len(kept.kv_groups) * query_heads_per_group,
            kv_heads=len(kept.kv_groups),
            ffn_width=len(kept.ffn_channels),
        )
        for index, kept in enumerate(plan.layers)
    )


def describe_variant(making: Making, folder: Path, cost: CompressionCost) -> VariantManifest:
    """The manifest of the checkpoint in `folder`; footprint, ratios and checksums come from its files."""
    source = making.source
    config = read_config(folder)
    footprint = footprint_of_folder(folder, tied=is_tied(config))
    return VariantManifest(
        name=making.name,
        base=BaseModelRef(
            name=source.name, sha256=source.sha256, architecture=source.architecture, footprint=source.footprint
        ),
        method=_method_ref(making),
        allocation=making.allocation,
        calibration=making.calibration,
        layers=making.layers,
        hidden_size=config["hidden_size"],
        footprint=footprint,
        ratios=Ratios.between(making.ratio, source.footprint, footprint),
        sparsity=None if making.pattern is None else sparsity_of_folder(folder, making.pattern),
        expressibility="stock" if is_uniform(making.layers) else "per-layer",
        architecture=making.architecture,
        cost=cost,
        versions=versions_of((*VERSIONED, "datasets")),
        checksums=checksums_of(folder),
    )


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    return {"python": platform.python_version(), **package_versions(packages)}


def checksums_of(folder: Path) -> dict[str, str]:
    """Of all files that stay in the variant, by name."""
    return {path.name: sha256_of_file(path) for path in sorted(folder.iterdir()) if path.name != PROBE_NAME}


def _method_ref(making: Making) -> MethodRef:
    job = making.job
    return MethodRef(
        name=job.method.name,
        config=job.method.resolved_config,
        units=job.units,
        repair=job.repair,
        seed=job.seed,
        together=job.together,
        multiple_of=making.multiple_of,
    )
