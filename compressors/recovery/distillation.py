"""Logit distillation: the pruned model learns the dense model's whole next-token distribution, not only the token.

With teacher p and student q at temperature t, the loss of a position is

    w t^2 KL(p_t || q_t) + (1 - w) (-log q(next token)),

the forward KL of Hinton et al. (arXiv 1503.02531) that Minitron uses to retrain pruned models (Muralidharan et al.,
arXiv 2407.14679). The teacher says more per token than the text does, at the price of its forward pass and memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from artifacts.errors import ConfigError
from compressors.recovery import full, lora
from compressors.recovery.full import all_parameters, language_model_loss, next_token_logits
from compressors.recovery.lora import adapted
from compressors.recovery.patient import Patient
from compressors.recovery.registry import RecoveryMethod, Stage

Trainable = Literal["full", "lora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """`kl_weight` is w, in [0, 1]; `rank` and `alpha_per_rank` matter with trainable "lora" only."""

    learning_rate: float | None = None
    kl_weight: float = 0.9
    temperature: float = 1.0
    trainable: Trainable = "full"
    rank: int = 16
    alpha_per_rank: float = 2.0


def forward_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """t^2 KL(teacher || student) in nats, mean over all positions but each window's last; logits [N, T, V]."""
    wanted = (teacher[:, :-1].float() / temperature).log_softmax(dim=-1)
    given = (student[:, :-1].float() / temperature).log_softmax(dim=-1)
    return temperature**2 * (wanted.exp() * (wanted - given)).sum(dim=-1).mean()


def mixed_loss(config: DistillationConfig, patient: Patient, indices: Tensor) -> Tensor:
    assert patient.teacher is not None
    windows = patient.batch(indices)
    with torch.no_grad():
        teacher = next_token_logits(patient.teacher.view.model, windows)
    student = next_token_logits(patient.student.view.model, windows)
    distance = forward_kl(teacher, student, config.temperature)
    return config.kl_weight * distance + (1 - config.kl_weight) * language_model_loss(student, windows)


def stages(config: DistillationConfig, patient: Patient) -> Iterator[Stage]:
    """Raises ConfigError for a weight outside [0, 1] or a temperature that is not above 0."""
    if not 0 <= config.kl_weight <= 1 or config.temperature <= 0:
        raise ConfigError(
            f"weight {config.kl_weight:g} and temperature {config.temperature:g} make no distillation loss. "
            "The weight must be from 0 to 1 and the temperature above 0."
        )
    with _trainables(config, patient) as parameters:
        yield Stage(
            name=config.trainable,
            total=1,
            windows=len(patient.windows),
            parameters=parameters,
            loss=lambda indices: mixed_loss(config, patient, indices),
        )


@contextmanager
def _trainables(config: DistillationConfig, patient: Patient) -> Iterator[dict[str, nn.Parameter]]:
    if config.trainable == "full":
        yield all_parameters(patient)
        return
    with adapted(patient, config.rank, config.alpha_per_rank) as parameters:
        yield parameters


METHOD = RecoveryMethod(
    name="distillation",
    config=DistillationConfig(),
    needs_teacher=True,
    objective="weighted KL to the dense model and language-model loss, nats per token",
    paper="Hinton et al. (arXiv 1503.02531), for pruned models Muralidharan et al., Minitron (arXiv 2407.14679)",
    rate_times_width=lambda config: (full if config.trainable == "full" else lora).RATE_TIMES_WIDTH,
    stages=stages,
)
