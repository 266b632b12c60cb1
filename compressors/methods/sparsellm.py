"""SparseLLM: an FFN is masked as a whole, with the values between its matrices as unknowns that are solved for.

Attention is masked as by `sparsegpt`; the FFN begins there and then alternates between masked matrices and auxiliary
values (`alternation` has the steps, `auxiliary` the formulas). Deviations from the authors' code:

* a Hessian is damped once, where theirs is damped again every round; fits are ridge solutions in float64, where theirs
  are pseudo-inverses in float16; every layer has the same number of rounds, where theirs names layers of one model;
* the gate is solved for by Newton steps that never raise the objective, where theirs takes two gradient steps;
* a matrix that would raise the objective is not taken;
* the values that their last round updates and nobody reads are not computed. Instead the down projection is fitted and
  masked once more on what the masked gate and up really give (`finish`), which is most of what is gained;
* penalties of the producers' and the consumer's misfit count in squared units as they are; only their ratios matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressors.alternation import Affine, Alternation, Chain, Settings, Sweeps
from compressors.auxiliary import Gated, Penalties
from compressors.mask_evidence import FfnEvidence, MatrixEvidence
from compressors.methods.sparsegpt import sweep_all
from compressors.registry import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLlmConfig:
    """`epochs` counts how often matrices are swept; the penalties are alpha, beta and gamma of `auxiliary`."""

    epochs: int = 4
    producers: float = 1.0
    consumer: float = 1.0
    activation: float = 1.0
    damping: float = 0.01
    finish: bool = True


def mask_attention(config: SparseLlmConfig, evidence: MatrixEvidence) -> tuple[Tensor, ...]:
    return sweep_all(config.damping, evidence)


def mask_ffn(config: SparseLlmConfig, evidence: FfnEvidence) -> tuple[Tensor, ...]:
    penalties = Penalties(producers=config.producers, consumer=config.consumer, activation=config.activation)
    settings = Settings(
        epochs=config.epochs,
        penalties=penalties,
        damping=config.damping,
        input_damping=config.damping,
        finish=config.finish,
    )
    found = Alternation(ffn_chain(evidence.layer.ffn), evidence, Sweeps(evidence.pattern), settings).run()
    return tuple(each.weight for each in (*found.producers, found.consumer))


def ffn_chain(ffn: Any) -> Chain:
    gate, up, down = (affine(linear) for linear in (ffn.gate_proj, ffn.up_proj, ffn.down_proj))
    return Chain(producers=(gate, up), consumer=down, activation=Gated(ffn.act_fn))


def affine(linear: nn.Linear) -> Affine:
    return Affine(weight=linear.weight.detach(), bias=None if linear.bias is None else linear.bias.detach())


METHOD = Method(
    name="sparsellm",
    config=SparseLlmConfig(),
    units=("weights",),
    needs="gram",
    paper="Bai et al., SparseLLM (arXiv 2402.17946), finished on the real forward pass",
    mask_matrices=mask_attention,
    mask_ffn=mask_ffn,
)
