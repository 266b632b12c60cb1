"""SparseLLM in structured form: whole FFN channels and KV groups go, while the values inside an FFN are solved for.

`obs` ranks, as searches over widths need it. Of what is written its units are only the beginning: the alternation of
`sparsellm` goes on from there, with whole columns of the down projection as the zeros and none in gate and up, towards
what leads back to the dense stream. Each round eliminates anew from all units, on the values that stand for the
activations, so that a unit that went may come back. At the end the down projection is chosen and fitted on what gate
and up really give, if that is the better one; and if `obs` with its repair would have left less, that is taken instead.
Of attention the output projection alone is free, so its rounds only choose again.

Deviations from the published form, beside those of `sparsellm`: a misfit of gate and up counts a tenth of the others,
so that the values move further a round; fits are damped as every repair here, by columns per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressors.alternation import Alternation, Chain, Settings
from compressors.auxiliary import Penalties
from compressors.compensation import damping_share
from compressors.masked_fit import Hessian
from compressors.methods.obs import ObsConfig
from compressors.methods.obs import rank as rank_by_obs
from compressors.methods.sparsellm import affine, ffn_chain
from compressors.plan import Ranking
from compressors.refinement import HalfEvidence, Refined
from compressors.registry import Method, WidthEvidence
from compressors.second_order import Elimination


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLlmStructuredConfig:
    """`epochs` counts how often units are chosen; the penalties are alpha, beta and gamma of `auxiliary`."""

    epochs: int = 4
    producers: float = 0.1
    consumer: float = 1.0
    activation: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeUnits:
    """Zeros for `removed` whole units of a consumer, `width` columns each, by second order; producers have none."""

    removed: int
    width: int

    def producer(self, hessian: Hessian, optimum: Tensor) -> Tensor:
        return optimum

    def consumer(self, hessian: Hessian, optimum: Tensor) -> Tensor:
        elimination = Elimination(hessian.quadratic(optimum), self.width)
        elimination.remove(self.removed)
        columns, weights = elimination.survivors()
        zeros = torch.zeros_like(optimum)
        zeros[:, columns] = weights
        return zeros


def rank(config: SparseLlmStructuredConfig, evidence: WidthEvidence) -> Ranking:
    """Where the alternation begins, in the currency of `obs`."""
    return rank_by_obs(ObsConfig(), evidence)


def refine(config: SparseLlmStructuredConfig, evidence: HalfEvidence) -> Refined:
    """Raises CompressionError if activations are not finite."""
    group = evidence.layer.group(evidence.unit)
    width = group.columns_per_unit
    zeros = WholeUnits(removed=group.count - evidence.count, width=width)
    penalties = Penalties(producers=config.producers, consumer=config.consumer, activation=config.activation)
    settings = Settings(
        epochs=config.epochs,
        penalties=penalties,
        damping=damping_share(evidence.count * width, evidence.tokens),
        input_damping=damping_share(group.consumer.weight.shape[0], evidence.tokens),
    )
    chain = ffn_chain(evidence.layer.ffn) if evidence.unit == "ffn" else _projection(group.consumer)
    found = Alternation(chain, evidence, zeros, settings).run()
    weight = found.consumer.weight
    kept = tuple(weight.view(len(weight), group.count, width).abs().sum(dim=(0, 2)).nonzero()[:, 0].tolist())
    return Refined(kept=kept, consumer=weight, producers=tuple(each.weight for each in found.producers))


def _projection(consumer: nn.Linear) -> Chain:
    return Chain(producers=(), consumer=affine(consumer), activation=None)


METHOD = Method(
    name="sparsellm_structured",
    config=SparseLlmStructuredConfig(),
    units=("ffn", "kv"),
    needs="gram",
    paper="Bai et al., SparseLLM (arXiv 2402.17946), with whole units",
    rank_width=rank,
    refine=refine,
)
