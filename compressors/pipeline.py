"""From a request to a variant directory: check, calibrate, allocate, prune and repair block by block, export, verify.

Everything that can be refused is refused before the first expensive step, and nothing appears under the final name
until a fresh process has reloaded it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from artifacts.files import require_free_name
from artifacts.progress import Progress, silent
from artifacts.provenance import package_versions
from artifacts.variant import MANIFEST_NAME, Unit, VariantManifest
from compressors.arch import WIDTH_UNITS
from compressors.blocks import CheckpointModel
from compressors.budget import Budget, budget_for, uniform_allocation
from compressors.calibration import CalibrationSet, draw_calibration
from compressors.card import ResourceCard, Workload, resource_card
from compressors.export import PROBE_NAME, assemble_weights, copy_companions, write_config, write_probe
from compressors.gradients import gradient_rankings
from compressors.manifest import Making, Stopwatch, describe_variant, shapes_after
from compressors.plan import Allocation, Plan
from compressors.registry import Method
from compressors.relabel import stock_config
from compressors.request import CompressionRequest, require_device, resolve_compensation, resolve_method
from compressors.sequential import PruningJob, prune_blocks
from compressors.shards import stored_tensors
from compressors.source import Source, load_tokenizer, open_source
from compressors.streams import hidden_states
from compressors.verify import verify_in_fresh_process
from compressors.workspace import BlockFolder, Workspace, resumable_directory

Verifier = Callable[[Path], None]
Announcer = Callable[[ResourceCard], None]


def unannounced(card: ResourceCard) -> None:
    """For callers that do not read the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request with all that was resolved from it."""

    request: CompressionRequest
    method: Method
    units: tuple[Unit, ...]
    compensate: bool
    source: Source
    budget: Budget

    @property
    def needs_text(self) -> bool:
        return self.method.needs_calibration or self.compensate


def compress(
    request: CompressionRequest,
    progress: Progress = silent,
    verify: Verifier = verify_in_fresh_process,
    announce: Announcer = unannounced,
) -> VariantManifest:
    """Writes the variant directory `request.out` and returns its manifest. `announce` gets the resource card first.

    After a kill or Ctrl-C the same request goes on from the first block that is missing and gives the same bytes.
    Raises ConfigError, CheckpointError, UnsupportedModel or CompressionError; then nothing is left at `request.out`.
    """
    watch = Stopwatch()
    task = _resolve(request)
    with watch.stage("calibrate", progress):
        calibration = _draw_calibration(task)
    windows = None if calibration is None else calibration.windows
    announce(resource_card(stored_tensors(task.source.folder), _workload(task, windows)))
    unfinished = resumable_directory(request.out, _key(task, windows), keep_unfinished=request.keep_unfinished)
    with unfinished as workspace, torch.no_grad():
        making = _make(task, calibration, workspace, watch, progress)
        manifest = describe_variant(making, workspace.result, watch.cost())
        with watch.stage("verify", progress):
            manifest.save(workspace.result / MANIFEST_NAME)
            verify(workspace.result)
            (workspace.result / PROBE_NAME).unlink()
        manifest = manifest.model_copy(update={"cost": watch.cost()})
        manifest.save(workspace.result / MANIFEST_NAME)
    return manifest


def _resolve(request: CompressionRequest) -> Task:
    method, units = resolve_method(request)
    compensate = resolve_compensation(request, method)
    require_device(request.device)
    require_free_name(request.out)
    source = open_source(request.model)
    budget = budget_for(request.ratio, units, source.dimensions, request.multiple_of)
    return Task(request=request, method=method, units=units, compensate=compensate, source=source, budget=budget)


def _make(
    task: Task, calibration: CalibrationSet | None, workspace: Workspace, watch: Stopwatch, progress: Progress
) -> Making:
    source, windows = task.source, None if calibration is None else calibration.windows
    with watch.stage("open", progress):
        model = CheckpointModel(source.folder, task.request.device)
    dtypes = {name: stored.dtype for name, stored in model.stored.items()}
    blocks = BlockFolder(workspace.blocks, model.skeleton, dtypes, model.device)
    with watch.stage("allocate", progress):
        job = _job(task, _allocate(task, model, windows))
    if task.method.needs == "gradients" and windows is not None:
        with watch.stage("gradients", silent):
            ranked = tuple(unit for unit in WIDTH_UNITS if unit in task.units)
            rankings = gradient_rankings(model, task.method, ranked, windows, task.request.seed, progress)
        job = replace(job, rankings=rankings)
    with watch.stage("prune", silent):
        states = workspace.states if task.request.map_states else None
        plan = prune_blocks(model, job, windows, blocks, progress, states)
    layers = shapes_after(plan, source.config["num_attention_heads"] // source.config["num_key_value_heads"])
    config = stock_config(model.config, layers, source.architecture, str(source.dtype).removeprefix("torch."))
    with watch.stage("export", progress):
        _export(model, blocks, plan, source, workspace.result)
        write_config(config, workspace.result)
    return Making(
        name=task.request.out.name,
        ratio=task.request.ratio,
        multiple_of=task.budget.multiple_of,
        source=source,
        job=job,
        calibration=None if calibration is None else calibration.reference,
        layers=layers,
        architecture=str(config.architectures[0]),
    )


def _workload(task: Task, windows: Tensor | None) -> Workload:
    job, config = _job(task, ()), task.source.config
    looks = windows is not None and job.wants_streams
    return Workload(
        tokens=windows.numel() if looks and windows is not None else 0,
        window_tokens=task.request.window_tokens,
        hidden=config["hidden_size"],
        ffn_width=config["intermediate_size"],
        attention_width=config["num_attention_heads"] * config["head_dim"],
        streams=looks * (1 + job.wants_products),
        products=looks and job.wants_products,
        second_order=looks and task.method.needs == "gram",
    )


def _export(model: CheckpointModel, blocks: BlockFolder, plan: Plan, source: Source, out: Path) -> None:
    assemble_weights(model, blocks, plan.kept_layers, out)
    copy_companions(source.folder, out)
    write_probe(model, blocks, plan.kept_layers, out)


def _allocate(task: Task, model: CheckpointModel, windows: Tensor | None) -> Allocation:
    dimensions, method = task.source.dimensions, task.method
    if method.select_layers is None:
        return uniform_allocation(task.budget, dimensions)
    assert windows is not None
    kept = method.select_layers(method.config, hidden_states(model, windows), task.budget.layers)
    return uniform_allocation(task.budget, dimensions, kept)


def _job(task: Task, allocation: Allocation) -> PruningJob:
    return PruningJob(
        method=task.method,
        units=task.units,
        allocation=allocation,
        compensate=task.compensate,
        seed=task.request.seed,
        dtype=task.source.dtype,
    )


def _key(task: Task, windows: Tensor | None) -> str:
    """A short hash of everything that decides the bytes of the result."""
    wanted = asdict(task.request) | {"model": task.source.sha256}
    for place in ("out", "calibration", "map_states", "keep_unfinished"):
        del wanted[place]
    text = b"" if windows is None else windows.numpy().tobytes()
    decisive = [wanted, task.method.resolved_config, hashlib.sha256(text).hexdigest(), package_versions(("torch",))]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _draw_calibration(task: Task) -> CalibrationSet | None:
    """None where nothing will look at activations, even if text was given."""
    request, source = task.request, task.source
    if request.calibration is None or not task.needs_text:
        return None
    return draw_calibration(
        request.calibration,
        load_tokenizer(source.folder),
        total_tokens=request.calibration_tokens,
        window_tokens=request.window_tokens,
        seed=request.seed,
        vocabulary=int(source.config["vocab_size"]),
    )
