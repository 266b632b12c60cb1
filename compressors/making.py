"""From a resolved task to the files of a checkpoint: allocate, prune and repair block by block, export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor

from artifacts.progress import Progress, silent
from artifacts.variant import LayerShape
from compressors.allocation.learned import ALLOCATOR as LEARNED
from compressors.allocation.problem import Problem
from compressors.allocation.space import Target
from compressors.arch import WIDTH_UNITS
from compressors.blocks import CheckpointModel
from compressors.budget import base_widths, removed_counts, uniform_allocation
from compressors.calibration import CalibrationSet
from compressors.depth import DEPTH_UNITS, DepthEvidence
from compressors.export import assemble_weights, copy_companions, write_config, write_probe
from compressors.gradients import gradient_rankings
from compressors.manifest import Making, Stopwatch, shapes_after
from compressors.mask_learning import MaskLearning
from compressors.masking import MaskingJob, mask_blocks
from compressors.masks import Pattern
from compressors.methods import REGISTRY
from compressors.plan import Allocation, Plan, whole_plan
from compressors.relabel import checkpoint_config
from compressors.sequential import PruningJob
from compressors.skeleton import Skeleton
from compressors.slicing import HiddenCut, SlicedEnds, narrowed_config, slice_blocks
from compressors.source import Source
from compressors.streams import half_states
from compressors.task import Task, pruning_job, stays_resident
from compressors.together import prune_blocks
from compressors.workspace import BlockFolder, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """One compression under way; `calibration` is None where nothing looks at activations."""

    task: Task
    calibration: CalibrationSet | None
    workspace: Workspace
    watch: Stopwatch
    progress: Progress

    @property
    def windows(self) -> Tensor | None:
        return None if self.calibration is None else self.calibration.windows

    def make(self) -> Making:
        """Writes everything but the manifest into the workspace's result folder."""
        with self.watch.stage("open", self.progress):
            model = CheckpointModel(self.task.source.folder, self.task.request.device)
        if self.task.pattern is not None:
            return self._masked(model, self.task.pattern)
        return self._sliced(model) if self.task.narrows_the_stream else self._pruned(model)

    def _pruned(self, model: CheckpointModel) -> Making:
        blocks = self._block_folder(model, model.skeleton)
        job = self._ranked(model, pruning_job(self.task))
        with self.watch.stage("allocate", self.progress):
            job = replace(job, allocation=job.allocation or self._allocation(model, job))
        with self.watch.stage("prune", silent):
            plan = prune_blocks(model, job, self.windows, blocks, self.progress, self._states)
        return self._exported(model, job, plan, blocks)

    def _masked(self, model: CheckpointModel, pattern: Pattern) -> Making:
        """Every unit stays where it is, so the checkpoint has the base model's shapes."""
        plan = whole_plan(base_widths(model.config))
        blocks = self._block_folder(model, model.skeleton)
        job = MaskingJob(method=self.task.method, pattern=pattern, dtype=self.task.source.dtype, folder=self._states)
        with self.watch.stage("prune", silent):
            mask_blocks(model, job, self.windows, plan, blocks, self.progress)
        return self._exported(model, pruning_job(self.task), plan, blocks)

    def _exported(self, model: CheckpointModel, job: PruningJob, plan: Plan, blocks: BlockFolder) -> Making:
        """Puts blocks of the base model's own stream together, and says what came of it."""
        source, out = self.task.source, self.workspace.result
        layers = _shapes(source, plan)
        config = checkpoint_config(model.config, layers, source.architecture, _dtype_name(source))
        with self.watch.stage("export", self.progress):
            assemble_weights(model, blocks, plan.kept_layers, out)
            copy_companions(source.folder, out)
            write_probe(model, blocks, plan.kept_layers, out)
            write_config(config, out)
        return self._making(job, layers, config)

    def _sliced(self, model: CheckpointModel) -> Making:
        """The same with a narrower residual stream, which changes every tensor, both ends included."""
        source, out = self.task.source, self.workspace.result
        with self.watch.stage("allocate", self.progress):
            cut = self._hidden_cut(model)
        assert self.task.budget is not None
        job = pruning_job(self.task, uniform_allocation(self.task.budget, source.dimensions, base_widths(model.config)))
        plan = whole_plan(job.allocation)
        layers = _shapes(source, plan)
        narrowed = narrowed_config(model.config, cut.hidden_size)
        config = checkpoint_config(narrowed, layers, source.architecture, _dtype_name(source))
        skeleton = Skeleton(config)
        blocks = self._block_folder(model, skeleton)
        with self.watch.stage("prune", silent):
            windows = self.windows if self.task.repair == "ridge" else None
            slice_blocks(model, cut, skeleton, blocks, plan, self.progress, windows, self._states)
        with self.watch.stage("export", self.progress):
            assemble_weights(SlicedEnds(model, cut), blocks, plan.kept_layers, out)
            write_config(config, out)
            copy_companions(source.folder, out)
            write_probe(CheckpointModel(out, self.task.request.device), blocks, plan.kept_layers, out)
        return self._making(job, layers, config)

    def _hidden_cut(self, model: CheckpointModel) -> HiddenCut:
        method, budget = self.task.method, self.task.budget
        assert method.find_basis is not None and self.windows is not None and budget is not None
        basis = method.find_basis(method.config, half_states(model, self.windows))[:, : budget.hidden_size]
        return HiddenCut(basis.float().to(model.device), self.task.source.dtype)

    def _ranked(self, model: CheckpointModel, job: PruningJob) -> PruningJob:
        """Gradient methods and those that learn rank on the dense model, before anything is cut."""
        if self.task.method.learns:
            with self.watch.stage("masks", silent):
                return self._learnt(model, job)
        if self.task.method.needs != "gradients" or self.windows is None:
            return job
        with self.watch.stage("gradients", silent):
            ranked = tuple(unit for unit in WIDTH_UNITS if unit in self.task.units)
            rankings = gradient_rankings(model, self.task.method, ranked, self.windows, job.seed, self.progress)
        return replace(job, rankings=rankings)

    def _learnt(self, model: CheckpointModel, job: PruningJob) -> PruningJob:
        task = self.task
        assert self.windows is not None
        resident = stays_resident(task.source.footprint)
        learning = MaskLearning(
            model=CheckpointModel(task.source.folder, task.request.device, keep_resident=resident),
            job=job,
            windows=self.windows,
            registry=REGISTRY,
            resident=resident,
            known=self.workspace.found_policy(),
            keep=self.workspace.keep_policy,
            progress=self.progress,
        )
        if any(unit in DEPTH_UNITS for unit in task.units):
            removed = removed_counts(task.request.ratio, task.units, base_widths(model.config))
            return replace(job, allocation=learning.depths(removed))
        if task.allocator is LEARNED:
            return replace(job, rankings=learning.widths(task.target, None))
        allocation = self._allocation(model, job)
        return replace(job, allocation=allocation, rankings=learning.widths(None, allocation))

    def _allocation(self, model: CheckpointModel, job: PruningJob) -> Allocation:
        task, widths = self.task, base_widths(model.config)
        if task.target is not None:
            return self._spread(task.target, job)
        assert task.budget is not None
        if task.method.select_depth is None:
            return uniform_allocation(task.budget, task.source.dimensions, widths)
        evidence = DepthEvidence(
            base=widths,
            removed=removed_counts(task.request.ratio, task.units, widths),
            model=model,
            windows=self.windows,
            random=Random(task.request.seed),
            progress=self.progress,
        )
        return task.method.select_depth(task.method.config, evidence)

    def _spread(self, target: Target, job: PruningJob) -> Allocation:
        """The allocator's answer, which an interrupted attempt may have found already."""
        found = self.workspace.found_allocation()
        if found is None:
            source, allocator = self.task.source, self.task.allocator
            problem = Problem(
                target=target,
                model=CheckpointModel(
                    source.folder, self.task.request.device, keep_resident=stays_resident(source.footprint)
                ),
                job=replace(job, allocation=target.space.dense_allocation),
                windows=self.windows,
                progress=self.progress,
                folder=self.workspace.levels,
            )
            found = allocator.allocate(allocator.config, problem)
            self.workspace.keep_allocation(found)
        return found

    @property
    def _states(self) -> Path | None:
        return self.workspace.states if self.task.request.map_states else None

    def _block_folder(self, model: CheckpointModel, skeleton: Skeleton) -> BlockFolder:
        dtypes = {name: stored.dtype for name, stored in model.stored.items()}
        return BlockFolder(self.workspace.blocks, skeleton, dtypes, model.device)

    def _making(self, job: PruningJob, layers: tuple[LayerShape, ...], config: Any) -> Making:
        task = self.task
        return Making(
            name=task.request.out.name,
            ratio=0.0 if task.method.masks else task.request.ratio,
            pattern=task.pattern,
            multiple_of=task.multiple_of,
            source=task.source,
            job=job,
            allocation=task.allocation,
            calibration=None if self.calibration is None else self.calibration.reference,
            layers=layers,
            architecture=str(config.architectures[0]),
        )


def _shapes(source: Source, plan: Plan) -> tuple[LayerShape, ...]:
    return shapes_after(plan, source.config["num_attention_heads"] // source.config["num_key_value_heads"])


def _dtype_name(source: Source) -> str:
    return str(source.dtype).removeprefix("torch.")
