"""LoRA: low-rank updates of every pruned matrix learn from plain text and are merged into the weights at the end.

Trains W + (alpha / rank) B A with W frozen (Hu et al., arXiv 2106.09685), as LLM-Pruner does after its cut (Ma et al.,
arXiv 2305.11627). The merge leaves a checkpoint with the same tensors and shapes as before, so that nothing downstream
knows about adapters. Optimizer memory is that of the adapters alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from artifacts.errors import ConfigError
from compressors.recovery.full import text_loss
from compressors.recovery.patient import Patient, matrices_of
from compressors.recovery.registry import RecoveryMethod, Stage

RATE_TIMES_WIDTH = 0.64


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """`alpha_per_rank` is the update's scale, alpha / rank; B starts at zero: training starts at the pruned model."""

    learning_rate: float | None = None
    rank: int = 16
    alpha_per_rank: float = 2.0


@contextmanager
def adapted(patient: Patient, rank: int, alpha_per_rank: float) -> Iterator[dict[str, nn.Parameter]]:
    """Puts an adapter on every matrix of every half layer, yields the adapters' parameters, and merges at the end.

    One left early (by an error or a closed generator) is merged as well: the model is whole again in any case. Raises
    ConfigError for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"rank is {rank}; it must be at least 1. Common values are 8 to 64.")
    import peft  # takes seconds, and only this method needs it

    model = patient.student.view.model
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha_per_rank * rank, target_modules=matrix_names(patient), init_lora_weights=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(patient.seed)
        wrapped = peft.get_peft_model(model, config)
    try:
        yield {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    finally:
        wrapped.merge_and_unload()


def matrix_names(patient: Patient) -> list[str]:
    """Full module names of the matrices that get an adapter."""
    student = patient.student
    wanted = {id(matrix) for half, layer in student.halves() for matrix in matrices_of(layer, half.unit)}
    return [name for name, module in student.view.model.named_modules() if id(module) in wanted]


def stages(config: LoraConfig, patient: Patient) -> Iterator[Stage]:
    with adapted(patient, config.rank, config.alpha_per_rank) as parameters:
        yield Stage(
            name="lora",
            total=1,
            windows=len(patient.windows),
            parameters=parameters,
            loss=lambda indices: text_loss(patient, indices),
        )


METHOD = RecoveryMethod(
    name="lora",
    config=LoraConfig(),
    needs_teacher=False,
    objective="language-model loss, nats per token",
    paper="Hu et al., LoRA (arXiv 2106.09685), after pruning as in Ma et al., LLM-Pruner (arXiv 2305.11627)",
    rate_times_width=lambda config: RATE_TIMES_WIDTH,
    stages=stages,
)
