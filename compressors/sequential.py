"""Pruning in order: each layer is chosen, cut and repaired on what the already pruned layers before it really output.

Choosing on the dense model's activations would ignore that errors add up; going in order lets every repair also make
good what earlier layers lost. One block is in memory at a time: it is loaded, cut, repaired, handed to a sink, dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import torch

from artifacts.variant import Unit
from compressors.arch import WIDTH_UNITS, LayerView, UnitGroup, WidthUnit
from compressors.blocks import BlockModel
from compressors.plan import ABSENT, Allocation, LayerPlan, Ranking
from compressors.refinement import half_evidence, put_refined
from compressors.registry import Method, WidthEvidence
from compressors.repair import Repair, repair_consumer
from compressors.statistics import ConsumerStatistics
from compressors.streams import Streams
from compressors.surgery import keep_units, remove_half, unit_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningJob:
    """Everything that decides the plan besides the model and the calibration windows.

    `rankings` by (layer, unit) stand in for the method's own where they were made beforehand, as gradient methods do.
    `dtype` is what repaired weights are rounded to, so that later layers see what will be stored. `together` blocks in
    a row are cut for what they output together (see `together`).
    """

    method: Method
    units: tuple[Unit, ...]
    allocation: Allocation
    repair: Repair
    seed: int
    dtype: torch.dtype = torch.float32
    together: int = 1
    rankings: Mapping[tuple[int, WidthUnit], Ranking] = field(default_factory=dict)

    @property
    def wants_products(self) -> bool:
        """Whether Gram and cross products are accumulated, for the choice or for the repair."""
        return self.repair == "ridge" or (self.method.rank_width is not None and self.method.needs == "gram")

    @property
    def wants_streams(self) -> bool:
        """Whether anybody will look at activations while layers are cut."""
        looks = self.method.rank_width is not None and self.method.needs == "energy"
        return looks or self.wants_products or self.repair != "none"

    @property
    def refines(self) -> bool:
        """Whether a half is refitted as a whole. That ends on a ridge repair: without, the method's ranking is left."""
        return self.method.refine is not None and self.repair == "ridge"


class BlockSink(Protocol):
    """Where finished blocks go, and where those of an earlier attempt are found."""

    def finished(self, index: int) -> tuple[LayerView, LayerPlan] | None:
        """The block as it was kept, or None if it has to be made."""

    def keep(self, index: int, layer: LayerView, plan: LayerPlan) -> None: ...


def prune_block(model: BlockModel, index: int, job: PruningJob, streams: Streams | None, sink: BlockSink) -> LayerPlan:
    """Cuts a block for the sink, or finds it there, and moves the streams behind it."""
    if not job.allocation[index].present:
        pass_by(model, index, streams)
        return ABSENT
    known = sink.finished(index)
    if known is not None:
        pass_by(model, index, streams)
        if streams is not None:
            streams.pruned.move_through(index, known[0])
        return known[1]
    layer = model.load(index)
    kept = {unit: _prune_half(index, layer, unit, job, streams) for unit in WIDTH_UNITS}
    plan = LayerPlan(kv_groups=kept["kv"], ffn_channels=kept["ffn"])
    sink.keep(index, layer, plan)
    return plan


def pass_by(model: BlockModel, index: int, streams: Streams | None) -> None:
    """Moves the dense stream alone behind a block."""
    if streams is not None and streams.dense is not None:
        streams.dense.move_through(index, model.load(index))


def _prune_half(
    index: int, layer: LayerView, unit: WidthUnit, job: PruningJob, streams: Streams | None
) -> tuple[int, ...]:
    """Chooses, cuts and repairs one kind of unit of one layer, and moves the streams behind it."""
    count = job.allocation[index].count(unit)
    if count == 0:
        if streams is not None:
            streams.skip(index, layer, unit)
        if layer.has(unit):
            remove_half(layer, unit)
        return ()
    everything = tuple(range(layer.count(unit)))
    if count == len(everything):
        # Nothing removed means nothing to repair: such a half keeps its weights bit for bit.
        if streams is not None:
            streams.advance(index, layer, unit)
        return everything
    if streams is not None and job.refines:
        kept = _refine_half(index, layer, unit, job, streams)
    else:
        statistics = None if streams is None else streams.observe(index, layer, unit)
        kept = rank_half(index, layer, unit, job, statistics, len(everything) - count).kept(count)
        cut_and_repair(layer.group(unit), kept, statistics, job)
    if streams is not None:
        streams.pruned.move(index, layer, unit)
    return kept


def _refine_half(index: int, layer: LayerView, unit: WidthUnit, job: PruningJob, streams: Streams) -> tuple[int, ...]:
    """The same by the method itself, on the dense stream behind the half and the pruned one in front."""
    assert job.method.refine is not None
    streams.skip(index, layer, unit)
    evidence = half_evidence(index, layer, unit, job.allocation[index].count(unit), streams)
    refined = job.method.refine(job.method.config, evidence)
    put_refined(layer, unit, refined, job.dtype)
    return refined.kept


def rank_half(
    index: int,
    layer: LayerView,
    unit: WidthUnit,
    job: PruningJob,
    statistics: ConsumerStatistics | None,
    most_removed: int,
) -> Ranking:
    """The method's order for one half layer, or the one that was made beforehand."""
    known = job.rankings.get((index, unit))
    if known is not None:
        return known
    assert job.method.rank_width is not None
    evidence = WidthEvidence(
        group=layer.group(unit),
        statistics=statistics,
        most_removed=most_removed,
        random=Random(f"{job.seed}/{index}/{unit}"),
    )
    return job.method.rank_width(job.method.config, evidence)


def cut_and_repair(
    group: UnitGroup, kept: tuple[int, ...], statistics: ConsumerStatistics | None, job: PruningJob
) -> None:
    """Cuts down to the units kept; with statistics mends the consumer, rounded to what will be stored."""
    consumer, base = group.consumer, group.consumer.weight
    keep_units(group, kept)
    if statistics is not None and job.repair != "none":
        repair_consumer(job.repair, consumer, base, statistics, unit_slots(kept, group.columns_per_unit))
        for parameter in consumer.parameters():
            parameter.data = parameter.data.to(job.dtype).float()
