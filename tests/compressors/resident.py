"""The whole model in memory behind the interface of one block at a time: the plain path that streaming must equal."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from artifacts.progress import silent
from compressors.arch import LayerView
from compressors.plan import LayerPlan, Plan
from compressors.sequential import PruningJob, prune_blocks
from compressors.skeleton import Skeleton


class ResidentModel:
    """A Transformers model that was built or loaded as usual."""

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


def prune_resident(model: Any, job: PruningJob, windows: Tensor | None = None) -> Plan:
    """Prunes a model in memory and puts the finished blocks in the place of its layers."""
    collector = Collector()
    with torch.inference_mode():
        plan = prune_blocks(ResidentModel(model), job, windows, collector, silent)
    kept = [collector.layers[index].module for index in plan.kept_layers]
    for position, layer in enumerate(kept):
        layer.self_attn.layer_idx = position
    model.model.layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return plan
