"""Pruning in order: each layer is chosen, cut and repaired on what the already pruned layers before it really output.

Choosing on the dense model's activations would ignore that errors add up; going in order lets every repair also make
good what earlier layers lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from artifacts.progress import Progress
from artifacts.variant import Unit
from compressors.arch import WIDTH_UNITS, LayerView, ModelView, UnitGroup, WidthUnit
from compressors.budget import Budget
from compressors.compensation import refit_consumer
from compressors.plan import LayerPlan, Plan
from compressors.registry import Method, WidthEvidence
from compressors.statistics import ConsumerStatistics
from compressors.streams import Streams, hidden_states
from compressors.surgery import keep_layers, keep_units, unit_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningJob:
    """Everything that decides the plan besides the model and the calibration windows."""

    method: Method
    units: tuple[Unit, ...]
    budget: Budget
    compensate: bool
    seed: int

    def kept_units(self, unit: WidthUnit) -> int:
        return self.budget.kv_heads if unit == "kv" else self.budget.ffn_width

    @property
    def wants_products(self) -> bool:
        """Whether Gram and cross products are accumulated, for the choice or for the repair."""
        return self.compensate or self.method.needs == "gram"


def prune_model(view: ModelView, job: PruningJob, windows: Tensor | None, progress: Progress) -> Plan:
    """Cuts the model in place and returns what survived. `windows` [windows, tokens] are the calibration ids."""
    if job.method.select_layers is not None:
        return _prune_depth(view, job, windows, progress)
    return _prune_widths(view, job, windows, progress)


def _prune_depth(view: ModelView, job: PruningJob, windows: Tensor | None, progress: Progress) -> Plan:
    assert job.method.select_layers is not None and windows is not None
    total = len(view.layers)
    progress("prune", 0, total)
    kept = job.method.select_layers(job.method.config, hidden_states(view, windows), job.budget.layers)
    plan = Plan(tuple(_whole_layer(layer, index in kept) for index, layer in enumerate(view.layers)))
    keep_layers(view, plan.kept_layers)
    progress("prune", total, total)
    return plan


def _prune_widths(view: ModelView, job: PruningJob, windows: Tensor | None, progress: Progress) -> Plan:
    total = len(view.layers)
    streams = None if windows is None else Streams(view, windows, keep_dense=job.wants_products)
    plans: list[LayerPlan] = []
    for index, layer in enumerate(view.layers):
        progress("prune", index, total)
        kept = {unit: _prune_half(index, layer, unit, job, streams) for unit in WIDTH_UNITS}
        plans.append(LayerPlan(kv_groups=kept["kv"], ffn_channels=kept["ffn"]))
    progress("prune", total, total)
    return Plan(tuple(plans))


def _prune_half(
    index: int, layer: LayerView, unit: WidthUnit, job: PruningJob, streams: Streams | None
) -> tuple[int, ...]:
    """Chooses, cuts and repairs one kind of unit of one layer, and moves the streams behind it."""
    group = layer.group(unit)
    if unit not in job.units:
        if streams is not None:
            streams.advance(index, layer, unit)
        return tuple(range(group.count))
    statistics = None if streams is None else streams.observe(index, layer, unit)
    count = job.kept_units(unit)
    evidence = WidthEvidence(
        group=group,
        statistics=statistics,
        most_removed=group.count - count,
        random=Random(f"{job.seed}/{index}/{unit}"),
    )
    assert job.method.rank_width is not None
    kept = job.method.rank_width(job.method.config, evidence).kept(count)
    _cut_and_repair(group, kept, statistics if job.compensate else None)
    if streams is not None:
        streams.follow(index, layer, unit)
    return kept


def _cut_and_repair(group: UnitGroup, kept: tuple[int, ...], statistics: ConsumerStatistics | None) -> None:
    """Nothing removed means nothing to repair: such a layer keeps its weights bit for bit."""
    if len(kept) == group.count:
        return
    keep_units(group, kept)
    if statistics is not None:
        refit_consumer(group.consumer, statistics, unit_slots(kept, group.columns_per_unit))


def _whole_layer(layer: LayerView, present: bool) -> LayerPlan:
    return LayerPlan(
        present=present, kv_groups=tuple(range(layer.kv_heads)), ffn_channels=tuple(range(layer.ffn_width))
    )
