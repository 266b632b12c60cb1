"""A whole model in memory behind the interface of one block at a time.

For models that were built or loaded by other means, and the plain path that streaming must equal bit for bit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from artifacts.progress import silent
from compressors.arch import WIDTH_UNITS, LayerView
from compressors.budget import base_widths
from compressors.gradients import gradient_rankings
from compressors.masking import MaskingJob, mask_blocks
from compressors.plan import LayerPlan, Plan, whole_plan
from compressors.sequential import PruningJob
from compressors.skeleton import Skeleton
from compressors.together import prune_blocks


class ResidentModel:
    """A Transformers causal language model of a supported family. Loading a block copies it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.model.model.layers)

    def load(self, index: int) -> LayerView:
        return LayerView(copy.deepcopy(self.model.model.layers[index]))

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.model.embed_tokens(ids)

    def arguments(self, tokens: int) -> list[dict[str, Any]]:
        return Skeleton(self.model.config).arguments(tokens, self.device)

    def logits(self, states: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(states))


@dataclass
class Collector:
    """Keeps finished blocks in memory."""

    layers: dict[int, LayerView] = field(default_factory=dict)

    def finished(self, index: int) -> None:
        return None

    def keep(self, index: int, layer: LayerView, plan: LayerPlan) -> None:
        self.layers[index] = layer


def mask_resident(model: Any, job: MaskingJob, windows: Tensor | None = None) -> None:
    """Masks a model in memory: its layers become the finished blocks."""
    resident, collector = ResidentModel(model), Collector()
    plan = whole_plan(base_widths(model.config))
    with torch.no_grad():
        mask_blocks(resident, job, windows, plan, collector, silent)
    model.model.layers = nn.ModuleList(collector.layers[index].module for index in plan.kept_layers)


def prune_resident(model: Any, job: PruningJob, windows: Tensor | None = None) -> Plan:
    """Prunes a model in memory: its layers become the finished blocks, renumbered. The configuration keeps its widths.

    A gradient method's rankings are made first, unless the job brings them.
    """
    resident, collector = ResidentModel(model), Collector()
    if job.method.needs == "gradients" and not job.rankings:
        assert windows is not None
        units = tuple(unit for unit in WIDTH_UNITS if unit in job.units)
        job = replace(job, rankings=gradient_rankings(resident, job.method, units, windows, job.seed, silent))
    with torch.no_grad():
        plan = prune_blocks(resident, job, windows, collector, silent)
    kept = [collector.layers[index].module for index in plan.kept_layers]
    for position, layer in enumerate(kept):
        if layer.self_attn is not None:
            layer.self_attn.layer_idx = position
    model.model.layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return plan
