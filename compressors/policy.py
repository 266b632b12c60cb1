"""Learns with which probability each unit stays, from losses of forward passes alone, under a budget.

A step draws masks, lets an objective judge them on the same text, follows the policy gradient and returns to the
budget. Its scale is that of the losses' own spread, so a rate means the same for every model and text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from artifacts.progress import Progress, silent
from compressors.bernoulli import Limit, draw, others_mean, policy_gradient, projected

Baseline = Literal["others", "moving_average", "none"]

_SAVES = 20
_SPREAD_MEMORY = 0.9
_LEAST_SPREAD = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """`samples` masks are judged on the same `batch_tokens` of text in each of `steps`.

    `rate` is how far a step moves probabilities, falling to 0 along a cosine; None is sqrt(units) / steps, with which
    a unit of average weight can just cross from 0 to 1. `baseline` is what a mask's loss is compared with: that of the
    "others" of its step, or a "moving_average" over `window` steps before it. `start` is the width method whose ranking
    the probabilities begin with ("block_influence" for layers), None the same for all; `softness` is the share of a
    layer's units over which they rise from 0.27 to 0.73.
    """

    steps: Annotated[int, Field(ge=0)] = 500
    samples: Annotated[int, Field(ge=2)] = 16
    batch_tokens: Annotated[int, Field(gt=0)] = 256
    rate: Annotated[float, Field(gt=0)] | None = None
    baseline: Baseline = "others"
    window: Annotated[int, Field(gt=0)] = 5
    start: str | None = "default"
    softness: Annotated[float, Field(gt=0)] = 0.2


class Objective(Protocol):
    """Judges masks [count, units]; `step` decides the text. Returns mean nats per token [count], float64."""

    def losses(self, masks: Tensor, step: int) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """After `step` steps. `average` is the moving average of losses, `spread` the running mean square of advantages;
    both 0 before the first step."""

    step: int
    probabilities: Tensor
    average: float = 0.0
    spread: float = 0.0


Keeper = Callable[[PolicyState], None]


def forgotten(state: PolicyState) -> None:
    """For callers that keep nothing."""


def learn(
    config: PolicyConfig,
    state: PolicyState,
    limits: tuple[Limit, ...],
    objective: Objective,
    seed: int,
    progress: Progress = silent,
    keep: Keeper = forgotten,
) -> Tensor:
    """The probabilities after all steps. `state` is where to begin or go on; `keep` gets one now and then and the last.

    A step's masks depend on the seed and its number alone, so that going on changes nothing.
    """
    while state.step < config.steps:
        progress("masks", state.step, config.steps)
        state = _stepped(config, state, limits, objective, seed)
        if state.step % max(1, config.steps // _SAVES) == 0 or state.step == config.steps:
            keep(state)
    progress("masks", config.steps, config.steps)
    return state.probabilities


def _stepped(
    config: PolicyConfig, state: PolicyState, limits: tuple[Limit, ...], objective: Objective, seed: int
) -> PolicyState:
    chances = state.probabilities
    random = torch.Generator().manual_seed(Random(f"{seed}/masks/{state.step}").getrandbits(62))
    masks = draw(chances, config.samples, random)
    losses = objective.losses(masks, state.step)
    advantages = losses - baselines(config.baseline, losses, state)
    spread = _running(state.spread, float(advantages.square().mean()), state.step)
    gradient = policy_gradient(advantages, torch.zeros_like(losses), masks, chances)
    # The score function grows without bound towards certainty; the root of its variance keeps all units' steps alike.
    even = gradient * (chances * (1 - chances)).sqrt() / max(math.sqrt(spread), _LEAST_SPREAD)
    return PolicyState(
        step=state.step + 1,
        probabilities=projected(chances - _rate(config, state) * even, limits),
        average=_averaged(config, state, float(losses.mean())),
        spread=spread,
    )


def baselines(kind: Baseline, losses: Tensor, state: PolicyState) -> Tensor:
    """[count] what each loss is compared with. A moving average knows nothing before the first step, which then only
    begins it."""
    if kind == "others":
        return others_mean(losses)
    if kind == "none":
        return torch.zeros_like(losses)
    return torch.full_like(losses, state.average) if state.step else losses.clone()


def _rate(config: PolicyConfig, state: PolicyState) -> float:
    first = math.sqrt(len(state.probabilities)) / config.steps if config.rate is None else config.rate
    return first * (1 + math.cos(math.pi * state.step / config.steps)) / 2


def _averaged(config: PolicyConfig, state: PolicyState, loss: float) -> float:
    return loss if state.step == 0 else state.average + (loss - state.average) / config.window


def _running(spread: float, new: float, step: int) -> float:
    """Mean square of the advantages up to now, later steps weighing more."""
    return new if step == 0 or spread == 0.0 else _SPREAD_MEMORY * spread + (1 - _SPREAD_MEMORY) * new
