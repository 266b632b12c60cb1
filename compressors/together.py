"""Pruning from the first block to the last, one block at a time or several for what they output together.

One at a time a block is cut to lead back to the dense stream behind itself. What a later block will not be able to do
any more is unknown then: where one adds what the next takes away again, and the next is cut, the first goes on adding.
Several together have the streams between them as unknowns, as SparseLLM (arXiv 2402.17946) has the values inside one
FFN. With t_0 the stream in front of the group, t_k the dense one behind it and B_l what a cut block makes of a stream,

    sum_l  w_l ||t_l - B_l(t_(l-1))||^2,   w_k = 1, w_l = `reach` before it,

is lowered by turns: each t_l, the last first, goes downhill from what its block gives now, and every block is cut and
refitted anew towards its new t_l, on what the blocks before it really give. A round whose group ends nearer to t_k is
kept, the first that does not is the last; so at its end a group is never further from the dense stream than blocks
that were cut one at a time. Attention halves keep their dense targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from artifacts.progress import Progress
from compressors.arch import WIDTH_UNITS, LayerView
from compressors.blocks import BlockModel
from compressors.plan import LayerPlan, Plan
from compressors.sequential import BlockSink, PruningJob, prune_block
from compressors.streams import Streams

# How much of a step is tried next where the whole one led uphill.
_SHORTER = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """`most` rounds, in each `steps` downhill for every stream between two blocks; `reach` weighs how far they may go
    from what the block before them gives."""

    most: int = 3
    steps: int = 4
    reach: float = 1.0


ROUNDS = Rounds()


def prune_blocks(
    model: BlockModel,
    job: PruningJob,
    windows: Tensor | None,
    sink: BlockSink,
    progress: Progress,
    folder: Path | None = None,
) -> Plan:
    """Hands every surviving block to the sink and returns what survived.

    `windows` [N, T] are the calibration ids, needed where the job wants streams; `folder` holds the hidden states, None
    for host memory. Blocks that the sink already has are not made again, but the streams pass through them.
    """
    total = len(model)
    streams = None
    if windows is not None and job.wants_streams:
        streams = Streams(model, windows, keep_dense=job.wants_products, folder=folder)
    plans: list[LayerPlan] = []
    for first in range(0, total, job.together):
        progress("prune", first, total)
        group = range(first, min(first + job.together, total))
        if streams is None or len(group) == 1 or _is_finished(group, job, sink):
            plans += [prune_block(model, index, job, streams, sink) for index in group]
        else:
            plans += _Group(model, group, job, streams).into(sink)
    progress("prune", total, total)
    return Plan(tuple(plans))


def _is_finished(group: range, job: PruningJob, sink: BlockSink) -> bool:
    return all(not job.allocation[index].present or sink.finished(index) is not None for index in group)


@dataclass
class _Attempt:
    """Cut blocks of a group and their plans, the pruned stream [windows, tokens, hidden] behind each, and how far the
    last of these is from the dense one, squared and summed."""

    layers: dict[int, LayerView] = field(default_factory=dict)
    plans: dict[int, LayerPlan] = field(default_factory=dict)
    behind: dict[int, Tensor] = field(default_factory=dict)
    error: float = 0.0

    def finished(self, index: int) -> None:
        return None

    def keep(self, index: int, layer: LayerView, plan: LayerPlan) -> None:
        self.layers[index] = layer


class _Group:
    """Consecutive blocks on streams that are in front of them."""

    def __init__(self, model: BlockModel, group: range, job: PruningJob, streams: Streams) -> None:
        assert streams.dense is not None
        self._model, self._group, self._job, self._streams = model, group, job, streams
        self._pruned, self._dense = streams.pruned, streams.dense
        self._fronts = tuple(
            streams.place(f"front-{number}", stream.states) for number, stream in enumerate((self._pruned, self._dense))
        )

    def into(self, sink: BlockSink) -> list[LayerPlan]:
        """Hands the group's blocks to the sink and moves the streams behind it."""
        best = self._attempt(0)
        for number in range(1, ROUNDS.most + 1):
            self._streams.guides = self._targets(best)
            tried = self._attempt(number)
            if tried.error >= best.error:
                break
            best = tried
        self._streams.guides = {}
        self._pruned.states.copy_(best.behind[self._group[-1]])
        for index, layer in best.layers.items():
            sink.keep(index, layer, best.plans[index])
        return [best.plans[index] for index in self._group]

    def _attempt(self, number: int) -> _Attempt:
        """Cuts the group from its dense blocks towards the targets, which are the dense stream the first time."""
        self._pruned.states.copy_(self._fronts[0])
        self._dense.states.copy_(self._fronts[1])
        attempt = _Attempt()
        for index in self._group:
            attempt.plans[index] = prune_block(self._model, index, self._job, self._streams, attempt)
            attempt.behind[index] = self._streams.place(f"behind-{index}-{number % 2}", self._pruned.states)
        for piece in self._pruned.pieces():
            attempt.error += float((self._pruned.states[piece] - self._dense.states[piece]).double().square().sum())
        return attempt

    def _targets(self, best: _Attempt) -> dict[int, Tensor]:
        """New streams behind all blocks but the last, where the dense stream, which is there now, stays the target."""
        goal, targets = self._dense.states, {}
        for index in reversed(self._group[:-1]):
            block = self._block(best.layers.get(index + 1), index + 1)
            target = self._streams.place(f"target-{index}", best.behind[index])
            for piece in self._pruned.pieces():
                given, ahead = (states[piece].to(self._model.device) for states in (best.behind[index], goal))
                target[piece] = lowered(given, ahead, block, ROUNDS).to(target.device)
            goal = targets[index] = target
        return targets

    def _block(self, layer: LayerView | None, index: int) -> Callable[[Tensor], Tensor]:
        def run(states: Tensor) -> Tensor:
            for unit in WIDTH_UNITS if layer is not None else ():
                assert layer is not None
                states = layer.run(unit, states, self._pruned.arguments[index])
            return states

        return run


def lowered(given: Tensor, goal: Tensor, block: Callable[[Tensor], Tensor], rounds: Rounds) -> Tensor:
    """A stream t [windows, tokens, hidden] near `given`, from where a block comes nearer to `goal`: in no window is
    reach ||t - given||^2 + ||goal - block(t)||^2 higher than at `given`.

    Downhill by the gradient, as far as would be exact if the block only passed its input on; where that leads uphill,
    a quarter as far. Windows do not know of each other, so each has a step of its own.
    """
    target = given
    least, slope = _cost(target, given, goal, block, rounds.reach)
    scale = torch.ones_like(least)
    for _ in range(rounds.steps):
        tried = target - scale * slope / (1 + rounds.reach)
        cost, tried_slope = _cost(tried, given, goal, block, rounds.reach)
        better = cost < least
        target, slope = torch.where(better, tried, target), torch.where(better, tried_slope, slope)
        least, scale = torch.where(better, cost, least), torch.where(better, scale, scale * _SHORTER)
    return target


def _cost(
    target: Tensor, given: Tensor, goal: Tensor, block: Callable[[Tensor], Tensor], reach: float
) -> tuple[Tensor, Tensor]:
    """Of each window [windows, 1, 1], and half its gradient."""
    with torch.enable_grad():
        leaf = target.detach().requires_grad_()
        misses = reach * (leaf - given).square() + (goal - block(leaf)).square()
        costs = misses.sum(dim=(1, 2), keepdim=True)
        (slope,) = torch.autograd.grad(costs.sum() / 2, leaf)
    return costs.detach(), slope
