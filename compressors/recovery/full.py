"""Full fine-tuning: every weight of the pruned model learns from plain text again.

The strongest method per token when memory allows (sixteen bytes a parameter: weights, gradients, two moments in
float32), and the one that forgets most when the text is not like the dense model's own. It is the continued
pre-training of Sheared LLaMA (Xia et al., arXiv 2310.06694) without its data mixing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compressors.recovery.patient import Patient
from compressors.recovery.registry import RecoveryMethod, Stage

RATE_TIMES_WIDTH = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class FullConfig:
    """`learning_rate` is the peak of the schedule; None is the rule of the registry."""

    learning_rate: float | None = None


def language_model_loss(logits: Tensor, windows: Tensor) -> Tensor:
    """Mean negative log likelihood in nats of every token behind a window's first; logits [N, T, V], windows [N, T]."""
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), windows[:, 1:].flatten())


def next_token_logits(model: Any, windows: Tensor) -> Tensor:
    """[N, T, V]."""
    logits: Tensor = model(input_ids=windows, use_cache=False).logits
    return logits


def all_parameters(patient: Patient) -> dict[str, nn.Parameter]:
    """A tied head is the embedding and appears once."""
    return dict(patient.student.view.model.named_parameters())


def text_loss(patient: Patient, indices: Tensor) -> Tensor:
    windows = patient.batch(indices)
    return language_model_loss(next_token_logits(patient.student.view.model, windows), windows)


def stages(config: FullConfig, patient: Patient) -> Iterator[Stage]:
    yield Stage(
        name="full",
        total=1,
        windows=len(patient.windows),
        parameters=all_parameters(patient),
        loss=lambda indices: text_loss(patient, indices),
    )


METHOD = RecoveryMethod(
    name="full",
    config=FullConfig(),
    needs_teacher=False,
    objective="language-model loss, nats per token",
    paper="Xia et al., Sheared LLaMA (arXiv 2310.06694): continued pre-training after structured pruning",
    rate_times_width=lambda config: RATE_TIMES_WIDTH,
    stages=stages,
)
