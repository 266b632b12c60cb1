"""From a compression's task to learnt masks: where the probabilities begin, what limits them, and what they end as.

Widths end as rankings by probability, which the allocation and the repair then treat like any other method's; layers
end as an allocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from compressors.allocation.space import Target
from compressors.arch import WIDTH_UNITS, Half
from compressors.bernoulli import Limit, projected
from compressors.blocks import BlockModel
from compressors.budget import base_widths
from compressors.depth import DepthUnit, without
from compressors.gradients import gradient_rankings
from compressors.level_building import build_levels
from compressors.mask_layout import DepthLayout, WidthLayout
from compressors.masked_loss import MaskedLoss
from compressors.methods.block_influence import influences
from compressors.plan import Allocation, Ranking, rank_by_score
from compressors.policy import Keeper, PolicyConfig, PolicyState, forgotten, learn
from compressors.registry import Registry
from compressors.sequential import PruningJob
from compressors.streams import half_states, hidden_states

_FIRST = {"width": "wanda_sp", "depth": "block_influence"}
_LOGIT_OF_EDGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLearning:
    """`job` is how the variant will be pruned, with a learning method; `windows` [N, T] are calibration ids.

    `known` is where an interrupted attempt stood. `registry` holds the methods that may rank the beginning. `resident`
    keeps all blocks in memory.
    """

    model: BlockModel
    job: PruningJob
    windows: Tensor
    registry: Registry
    resident: bool
    known: PolicyState | None = None
    keep: Keeper = field(default=forgotten)
    progress: Progress = silent

    @property
    def config(self) -> PolicyConfig:
        config = self.job.method.config
        assert isinstance(config, PolicyConfig)
        return config

    def widths(self, target: Target | None, allocation: Allocation | None) -> dict[Half, Ranking]:
        """Rankings for `target`, or within an `allocation` that is known; there is one of them."""
        base = base_widths(self.model.config)
        wanted = self.job.units if target is None else target.space.units
        layout = WidthLayout.of(base, tuple(unit for unit in WIDTH_UNITS if unit in wanted))
        assert target is not None or allocation is not None
        limits = layout.within(allocation) if allocation is not None else layout.under(target)  # type: ignore[arg-type]
        if all(limit.most >= float(limit.costs.sum()) for limit in limits):
            return layout.rankings(torch.ones(layout.size, dtype=torch.float64))
        first = self._first_widths(layout, limits, base)
        return layout.rankings(self._learnt(layout, limits, first))

    def depths(self, removed: Mapping[DepthUnit, int]) -> Allocation:
        base = base_widths(self.model.config)
        layout = DepthLayout.of(base, removed)
        if not any(removed.values()):
            return base
        first = self._first_depths(layout)
        return without(base, layout.removals(self._learnt(layout, layout.limits(), first)))

    def _learnt(self, layout: WidthLayout | DepthLayout, limits: tuple[Limit, ...], first: Tensor) -> Tensor:
        objective = MaskedLoss.on(
            self.model,
            self.windows,
            layout.spread,
            batch_tokens=self.config.batch_tokens,
            seed=self.job.seed,
            resident=self.resident,
        )
        state = self.known or PolicyState(step=0, probabilities=projected(first, limits))
        return learn(self.config, state, limits, objective, self.job.seed, self.progress, self.keep)

    def _start(self, face: str) -> str | None:
        return _FIRST[face] if self.config.start == "default" else self.config.start

    def _first_widths(self, layout: WidthLayout, limits: tuple[Limit, ...], base: Allocation) -> Tensor:
        first = _kept_shares(layout.size, limits)
        name = self._start("width")
        if self.known is not None or name is None:
            return first
        for half, ranking in self._rankings(name, layout, base).items():
            span = layout.spans[half]
            first[span] = softened(ranking, 1 - float(first[span.start]), self.config.softness)
        return first

    def _rankings(self, name: str, layout: WidthLayout, base: Allocation) -> Mapping[Half, Ranking]:
        """Of a method on the dense model. Raises ConfigError for one that does not rank."""
        method = self.registry.named(name)
        unranked = {unit for _, unit in layout.spans} - set(method.units)
        if method.rank_width is None or unranked:
            raise ConfigError(f"Method {name} does not rank {' and '.join(unranked or {'units'})}. Set another start.")
        job = replace(self.job, method=method, repair="none")
        if method.needs == "gradients":
            units = tuple(dict.fromkeys(unit for _, unit in layout.spans))
            return gradient_rankings(self.model, method, units, self.windows, job.seed, silent)
        return build_levels(self.model, job, self.windows, base, dict.fromkeys(layout.spans, (1,))).rankings

    def _first_depths(self, layout: DepthLayout) -> Tensor:
        first = _kept_shares(layout.size, layout.limits())
        name = self._start("depth")
        if self.known is not None or name is None:
            return first
        if name != _FIRST["depth"]:
            raise ConfigError(f"Layers cannot begin with {name}. Set start={_FIRST['depth']} or none.")
        for limit, (kind, options) in zip(layout.limits(), layout.options.items(), strict=True):
            states = hidden_states if kind == "layers" else half_states
            turned = influences(states(self.model, self.windows))
            own = turned if kind == "layers" else turned[kind == "ffn_sublayers" :: 2]
            ranking = rank_by_score([own[index] for _, index in options])
            first[limit.span] = softened(ranking, 1 - float(first[limit.span.start]), self.config.softness)
        return first


def _kept_shares(size: int, limits: tuple[Limit, ...]) -> Tensor:
    """The same probability for all units of a limit, which meets it."""
    shares = torch.empty(size, dtype=torch.float64)
    for limit in limits:
        shares[limit.span] = min(1.0, max(0.0, limit.most / float(limit.costs.sum())))
    return shares


def softened(ranking: Ranking, removed_share: float, softness: float) -> Tensor:
    """[units] probabilities that rise along the order like a sigmoid: a half where the removed share of units ends.

    Only the order of the scores counts, so any method's will do. `softness` is the share of units between -1 and 1.
    """
    units = len(ranking.order)
    places = torch.empty(units, dtype=torch.float64)
    places[torch.tensor(ranking.order)] = (torch.arange(units, dtype=torch.float64) + 0.5) / units
    return torch.sigmoid((places - removed_share) * 2 * _LOGIT_OF_EDGE / softness)
