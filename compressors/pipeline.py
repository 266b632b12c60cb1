"""From a request to a variant directory: check, load, calibrate, prune and repair, export, verify, rename.

Everything that can be refused is refused before the first expensive step, and nothing appears under the final name
until a fresh process has reloaded it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from artifacts.errors import ConfigError
from artifacts.files import complete_directory, require_free_name
from artifacts.progress import Progress, silent
from artifacts.variant import MANIFEST_NAME, Unit, VariantManifest
from compressors.arch import ModelView
from compressors.budget import budget_for, require_ratio
from compressors.calibration import CalibrationSet, draw_calibration
from compressors.export import PROBE_NAME, export_checkpoint
from compressors.manifest import Making, Stopwatch, describe_variant, shapes_after
from compressors.methods import REGISTRY
from compressors.registry import Method
from compressors.sequential import PruningJob, prune_model
from compressors.source import Source, load_model, load_tokenizer, open_source
from compressors.verify import verify_in_fresh_process

Verifier = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRequest:
    """What a user asks for.

    `units` None is the method's first kind; `compensate` None repairs when calibration text is given and the method
    prunes widths; `multiple_of` None is 128 for FFN widths of 1024 or more, else 1.
    """

    model: str
    out: Path
    method: str
    ratio: float
    units: tuple[Unit, ...] | None = None
    calibration: str | None = None
    calibration_tokens: int = 32768
    window_tokens: int = 256
    seed: int = 0
    multiple_of: int | None = None
    compensate: bool | None = None


def compress(
    request: CompressionRequest, progress: Progress = silent, verify: Verifier = verify_in_fresh_process
) -> VariantManifest:
    """Writes the variant directory `request.out` and returns its manifest.

    Raises ConfigError, CheckpointError, UnsupportedModel or CompressionError; then nothing is left at `request.out`.
    """
    watch = Stopwatch()
    method, units = resolve_method(request)
    compensate = resolve_compensation(request, method)
    require_free_name(request.out)
    source = open_source(request.model)
    budget = budget_for(request.ratio, units, source.dimensions, request.multiple_of)
    job = PruningJob(method=method, units=units, budget=budget, compensate=compensate, seed=request.seed)
    with complete_directory(request.out) as folder, torch.inference_mode():
        making = _prune_and_export(request, source, job, folder, watch, progress)
        manifest = describe_variant(making, folder, watch.cost())
        with watch.stage("verify", progress):
            manifest.save(folder / MANIFEST_NAME)
            verify(folder)
            (folder / PROBE_NAME).unlink()
        manifest = manifest.model_copy(update={"cost": watch.cost()})
        manifest.save(folder / MANIFEST_NAME)
    return manifest


def resolve_method(request: CompressionRequest) -> tuple[Method, tuple[Unit, ...]]:
    """The method and the units it is to prune. Raises ConfigError for a ratio, name, unit or missing text."""
    require_ratio(request.ratio)
    method = REGISTRY.named(request.method)
    units = method.units[:1] if request.units is None else tuple(dict.fromkeys(request.units))
    unfit = [unit for unit in units if unit not in method.units]
    if unfit or not units:
        raise ConfigError(
            f"Method {method.name} cannot prune {', '.join(unfit) or 'nothing'}. "
            f"Its units are {', '.join(method.units)}."
        )
    if method.needs_calibration and request.calibration is None:
        raise ConfigError(f"Method {method.name} needs calibration text. Give --calibration FILE or a hub dataset.")
    return method, units


def resolve_compensation(request: CompressionRequest, method: Method) -> bool:
    """Whether consumers are refitted. Raises ConfigError if that was asked for and cannot be."""
    prunes_widths = method.rank_width is not None
    if request.compensate is None:
        return prunes_widths and request.calibration is not None
    if request.compensate and not prunes_widths:
        raise ConfigError(f"Method {method.name} removes layers, which leaves nothing to refit. Use --no-compensate.")
    if request.compensate and request.calibration is None:
        raise ConfigError("Compensation needs calibration text. Give --calibration FILE or use --no-compensate.")
    return request.compensate


def _prune_and_export(
    request: CompressionRequest, source: Source, job: PruningJob, folder: Path, watch: Stopwatch, progress: Progress
) -> Making:
    with watch.stage("calibrate", progress):
        calibration = _draw_calibration(request, job, source)
    with watch.stage("load", progress):
        view = ModelView(load_model(source.folder))
    base_layers = view.layers
    with watch.stage("prune", silent):
        plan = prune_model(view, job, None if calibration is None else calibration.windows, progress)
    with watch.stage("export", progress):
        architecture = export_checkpoint(view, source.architecture, source.dtype, source.folder, folder)
    return Making(
        name=request.out.name,
        ratio=request.ratio,
        source=source,
        job=job,
        calibration=None if calibration is None else calibration.reference,
        layers=shapes_after(plan, base_layers),
        architecture=architecture,
    )


def _draw_calibration(request: CompressionRequest, job: PruningJob, source: Source) -> CalibrationSet | None:
    """None where nothing will look at activations, even if text was given."""
    if request.calibration is None or not (job.method.needs_calibration or job.compensate):
        return None
    return draw_calibration(
        request.calibration,
        load_tokenizer(source.folder),
        total_tokens=request.calibration_tokens,
        window_tokens=request.window_tokens,
        seed=request.seed,
        vocabulary=int(source.config["vocab_size"]),
    )
