"""Block-local reconstruction: each cut half layer learns, alone, to lead the residual stream back to the dense model's.

Halves are trained in order. The input is what the already recovered halves before it really output, the target is the
dense model's residual stream behind the same place, so that a later half also makes good what earlier ones still lack.
Only one half layer is ever differentiated: no full backward pass, and optimizer memory of half a layer. Puzzle trains
its block library this way (Bercovich et al., arXiv 2411.19146), each block on the dense model's own inputs; here the
inputs are those of the pruned stream, because one chosen model is mended and not a library filled.

Where whole halves or layers are missing, the half in front of the gap learns to say what the missing ones said too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from artifacts.errors import ConfigError
from compressors.arch import LayerView, ModelView
from compressors.recovery.patient import Half, Patient, ShapedModel, matrices_of, named_parameters_of
from compressors.recovery.registry import RecoveryMethod, Stage
from compressors.skeleton import Skeleton

RATE_TIMES_WIDTH = 0.64
_PIECE_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLocalConfig:
    """At most `pool_tokens` tokens of hidden states are held, in two streams (dense, pruned), 4 x D bytes a token each.

    More training tokens than that are read again.
    """

    learning_rate: float | None = None
    pool_tokens: int = 262_144


@dataclass(frozen=True, slots=True)
class Stretch:
    """A half of the pruned model, and the halves of the dense model that it stands for, its own included."""

    half: Half
    layer: LayerView
    stands_for: tuple[tuple[Half, LayerView], ...]
    is_cut: bool


class Stream:
    """Hidden states [N, T, D] of the training windows in front of a model's next half layer, on the CPU."""

    def __init__(self, view: ModelView, patient: Patient, windows: int) -> None:
        self._device = patient.device
        self._piece = max(1, _PIECE_TOKENS // patient.windows.shape[1])
        self.arguments: list[dict[str, Any]] = Skeleton(view.config).arguments(patient.windows.shape[1], patient.device)
        embed, pool = view.model.model.embed_tokens, torch.arange(windows)
        self.states = torch.cat([embed(patient.batch(piece)).cpu() for piece in pool.split(self._piece)])

    def batch(self, indices: Tensor) -> Tensor:
        return self.states[indices].to(self._device)

    def move(self, half: Half, layer: LayerView) -> None:
        """Behind this half, in place."""
        for piece in torch.arange(len(self.states)).split(self._piece):
            after = layer.run(half.unit, self.batch(piece), self.arguments[half.position])
            self.states[piece] = after.cpu()


def stages(config: BlockLocalConfig, patient: Patient) -> Iterator[Stage]:
    """Raises ConfigError if nothing was cut, or if the residual streams are not equally wide."""
    assert patient.teacher is not None
    stretches = find_stretches(patient.student, patient.teacher)
    pool = min(len(patient.windows), max(1, config.pool_tokens // patient.windows.shape[1]))
    with torch.no_grad():
        dense, pruned = (Stream(model.view, patient, pool) for model in (patient.teacher, patient.student))
    for stretch in stretches:
        with torch.no_grad():
            for half, layer in stretch.stands_for:
                dense.move(half, layer)
        if stretch.is_cut:
            yield _stage(stretch, patient, dense, pruned, sum(each.is_cut for each in stretches))
        with torch.no_grad():
            pruned.move(stretch.half, stretch.layer)


def find_stretches(student: ShapedModel, teacher: ShapedModel) -> list[Stretch]:
    """One per half of the student, in order; together they stand for every half of the teacher."""
    if student.view.config.hidden_size != teacher.view.config.hidden_size:
        raise ConfigError("The residual stream itself was cut, so no half layer has a target. Use distillation.")
    mine = {(student.shapes[half.position].index, half.unit): (half, layer) for half, layer in student.halves()}
    runs: list[list[tuple[Half, LayerView]]] = [[]]
    owners: list[tuple[Half, LayerView]] = []
    for half, layer in teacher.halves():
        own = mine.get((half.position, half.unit))
        if own is not None:
            if owners:
                runs.append([])
            owners.append(own)
        runs[-1].append((half, layer))
    stretches = [_stretch(owner, tuple(run)) for owner, run in zip(owners, runs, strict=True)]
    if not any(stretch.is_cut for stretch in stretches):
        raise ConfigError("Nothing was cut from this variant, so no half layer has anything to learn. Prune it first.")
    return stretches


def _stretch(owner: tuple[Half, LayerView], stands_for: tuple[tuple[Half, LayerView], ...]) -> Stretch:
    half, layer = owner
    is_narrower = any(half.unit == whole.unit and half.units < whole.units for whole, _ in stands_for)
    return Stretch(half, layer, stands_for, is_cut=is_narrower or len(stands_for) > 1)


def _stage(stretch: Stretch, patient: Patient, dense: Stream, pruned: Stream, total: int) -> Stage:
    half, layer = stretch.half, stretch.layer
    scale = float((dense.states - pruned.states).square().mean().clamp(min=1e-12))

    def loss(indices: Tensor) -> Tensor:
        given = layer.run(half.unit, pruned.batch(indices), pruned.arguments[half.position])
        return (given - dense.batch(indices)).square().mean() / scale

    return Stage(
        name=f"layer {half.position} {half.unit}",
        total=total,
        windows=len(pruned.states),
        parameters=named_parameters_of(patient.student.view.model, matrices_of(layer, half.unit)),
        loss=loss,
    )


METHOD = RecoveryMethod(
    name="block_local",
    config=BlockLocalConfig(),
    needs_teacher=True,
    objective="squared error of the residual stream, over the square of what the half layer has to write",
    paper="block-local distillation as in Bercovich et al., Puzzle (arXiv 2411.19146)",
    rate_times_width=lambda config: RATE_TIMES_WIDTH,
    stages=stages,
)
