"""The values inside an FFN as unknowns of their own, so that its matrices are pruned for the output of the whole FFN.

With x an input, a_k = W_k x + b_k the outputs of the producers, h(a) what the consumer W_2 reads (ReLU(a) in OPT,
act(gate) * up where the FFN is gated) and y the wanted output, SparseLLM (arXiv 2402.17946) sets the a_k and p, the
consumer's input, free and minimises over all tokens

    alpha sum_k ||a_k - W_k x - b_k||^2 + gamma ||p - h(a)||^2 + beta ||y - W_2 p - b_2||^2

by turns: each matrix under its mask, then p, then every a_k, each with all else held. Of one token's values p has the
closed form (beta W_2^T W_2 + gamma I)^-1 (beta W_2^T (y - b_2) + gamma h); the a_k are found element by element. Given
the matrices no token knows of another, so one pass over the text updates all of them piece by piece and leaves the
products that the next matrices are fitted to; only the a_k have to be remembered from pass to pass, and p does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
_NEWTON_STEPS = 2
# How much of a step is tried next where the whole one led uphill.
_SHORTER = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """alpha, beta, gamma: how much it costs that producers miss their outputs, the consumer its wanted output, the
    consumer's input what the outputs make of it. Only their ratios matter."""

    producers: float = 1.0
    consumer: float = 1.0
    activation: float = 1.0


class Activation(Protocol):
    """From the producers' outputs to the consumer's input, element by element."""

    def value(self, outputs: Outputs) -> Tensor:
        """h(a)."""

    def fitted(self, outputs: Outputs, linear: Outputs, inputs: Tensor, penalties: Penalties) -> Outputs:
        """New outputs that cost no more than `outputs`; `linear` is what the producers give, `inputs` is p."""


class Relu:
    """One producer, as in OPT: either sign of the output has a closed form, the cheaper of the two is taken."""

    def value(self, outputs: Outputs) -> Tensor:
        return outputs[0].relu()

    def fitted(self, outputs: Outputs, linear: Outputs, inputs: Tensor, penalties: Penalties) -> Outputs:
        """Above zero the mean of `inputs` and `linear`, below it `linear`; either at zero if it lies beyond."""
        (given,), alpha, gamma = linear, penalties.producers, penalties.activation
        above = ((gamma * inputs + alpha * given) / (gamma + alpha)).clamp_min(0)
        below = given.clamp_max(0)
        costs = [alpha * (each - given).square() + gamma * (inputs - each.relu()).square() for each in (above, below)]
        return (torch.where(costs[0] <= costs[1], above, below),)


class Gated:
    """Gate and up, as in Llama: act(gate) * up. Up has a closed form; the gate goes downhill by damped Newton steps.

    The authors' code takes two gradient steps of a fixed length, which may overshoot. Here a step is only taken where
    it lowers the cost, from the better of two starts: where the gate is and what its producer gives.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        self._activation = activation

    def value(self, outputs: Outputs) -> Tensor:
        return self._activation(outputs[0]) * outputs[1]

    def fitted(self, outputs: Outputs, linear: Outputs, inputs: Tensor, penalties: Penalties) -> Outputs:
        alpha, gamma = penalties.producers, penalties.activation
        opened = self._activation(outputs[0])
        up = (alpha * linear[1] + gamma * opened * inputs) / (alpha + gamma * opened.square())
        return self._gate(outputs[0], linear[0], up, inputs, penalties), up

    def _gate(self, start: Tensor, given: Tensor, up: Tensor, inputs: Tensor, penalties: Penalties) -> Tensor:
        alpha, gamma = penalties.producers, penalties.activation

        def cost(gate: Tensor) -> Tensor:
            return alpha * (gate - given).square() + gamma * (inputs - self._activation(gate) * up).square()

        least, given_cost = cost(start), cost(given)
        gate = start.lerp(given, _lower(given_cost, least))
        least = torch.minimum(least, given_cost)
        scale = torch.ones_like(gate)
        for _ in range(_NEWTON_STEPS):
            opened, slope = self._with_slope(gate)
            slope = slope.mul_(up)
            downhill = alpha * (given - gate) + gamma * slope * (inputs - opened * up)
            tried = gate + scale * downhill / (alpha + gamma * slope.square())
            tried_cost = cost(tried)
            better = _lower(tried_cost, least)
            gate, least = gate.lerp(tried, better), torch.minimum(least, tried_cost)
            scale = scale.mul_(_SHORTER).lerp_(torch.ones_like(scale), better)
        return gate

    def _with_slope(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """The activation and its derivative."""
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            opened = self._activation(leaf)
            (slope,) = torch.autograd.grad(opened.sum(), leaf)
        return opened.detach(), slope


def _lower(cost: Tensor, than: Tensor) -> Tensor:
    """1 where it is lower, else 0: as the weight of an interpolation exact, and cheaper than a choice by booleans."""
    return torch.lt(cost, than).to(cost.dtype)
