"""SparseLLM's alternation over one FFN (arXiv 2402.17946): masked matrices in turn with the values between them.

It begins with the dense values and with what SparseGPT makes of the matrices. An epoch passes the text once and
updates consumer inputs and outputs of the producers piece by piece (`auxiliary`), while the products add up that the
matrices are then fitted to and swept anew (`masked_fit`). A new matrix is taken only if it lowers the objective,
because a sweep need not find the better mask; so no step ever raises it. At the end the values between the matrices are
given up: the consumer is fitted and swept on what the masked producers really give, towards the dense output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from compressors.auxiliary import Activation, Outputs, Penalties
from compressors.masked_fit import Hessian
from compressors.masks import Pattern
from compressors.statistics import ConsumerStatistics

Watch = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """x -> weight x + bias for x [tokens, columns]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.nn.functional.linear(inputs, self.weight, self.bias)

    @property
    def constant(self) -> Tensor | float:
        return 0.0 if self.bias is None else self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The matrices of an FFN, and what stands between them."""

    producers: tuple[Affine, ...]
    consumer: Affine
    activation: Activation

    def outputs(self, inputs: Tensor) -> Outputs:
        return tuple(producer(inputs) for producer in self.producers)

    def hidden(self, inputs: Tensor) -> Tensor:
        """What the consumer reads [tokens, width]."""
        return self.activation.value(self.outputs(inputs))


class Text(Protocol):
    """The inputs of an FFN, which can be read again and again, and room for values of every token."""

    @property
    def pieces(self) -> Callable[[], Iterator[tuple[slice, Tensor]]]:
        """Passes once: which tokens, and their inputs [tokens, hidden]."""

    @property
    def room(self) -> Callable[[str, int], Tensor]:
        """From a name and a count of columns to [all tokens, columns] to write to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`epochs` counts how often matrices are swept, the first time as SparseGPT does. `damping` is the Hessians'.

    `finish` fits the consumer once more at the end, on what the masked producers really give.
    """

    epochs: int = 4
    penalties: Penalties = field(default_factory=Penalties)
    damping: float = 0.01
    finish: bool = True


class Alternation:
    """One FFN's alternation. `watch` is told the objective behind every step: squared outputs, summed over tokens."""

    def __init__(
        self, dense: Chain, text: Text, pattern: Pattern, settings: Settings, watch: Watch | None = None
    ) -> None:
        self._dense, self._text, self._pattern, self._settings, self._watch = dense, text, pattern, settings, watch
        self._rooms = [text.room(f"output-{k}", len(each.weight)) for k, each in enumerate(dense.producers)]
        self._wanted = text.room("wanted", len(dense.consumer.weight))
        self._objective = 0.0

    def run(self) -> Chain:
        """The masked chain. Raises CompressionError if activations are not finite."""
        inputs, hidden = self._dense_sums()
        assert inputs.gram is not None and hidden.gram is not None
        self._input_gram, self._input_hessian = inputs.gram, Hessian(inputs.gram, self._settings.damping)
        chain = self._swept(hidden.gram)
        for _ in range(self._settings.epochs - 1):
            chain = self._refitted(chain, *self._updated(chain))
        return self._finished(chain) if self._settings.finish else chain

    def _dense_sums(self) -> tuple[ConsumerStatistics, ConsumerStatistics]:
        """Fills the rooms with dense values; sums over the producers' and the consumer's inputs."""
        consumer = self._dense.consumer
        inputs, hidden = _sums(self._dense.producers[0], 0), _sums(consumer, 0)
        for tokens, x in self._text.pieces():
            outputs = self._dense.outputs(x)
            h = self._dense.activation.value(outputs)
            for room, values in zip(self._rooms, outputs, strict=True):
                room[tokens] = values.to(room.device)
            self._wanted[tokens] = (h @ consumer.weight.T).to(self._wanted.device)
            inputs.add(x)
            hidden.add(h)
        return inputs, hidden

    def _swept(self, hidden_gram: Tensor) -> Chain:
        """SparseGPT's matrices. What the sweeps leave behind is the objective, because dense values fit the rest."""
        dense, penalties = self._dense, self._settings.penalties
        producers = tuple(self._masked(each, each.weight, self._input_hessian) for each in dense.producers)
        hessian = Hessian(hidden_gram, self._settings.damping)
        consumer = self._masked(dense.consumer, dense.consumer.weight, hessian)
        for new, old in zip(producers, dense.producers, strict=True):
            self._objective += penalties.producers * _quadratic(new.weight - old.weight, self._input_gram)
        self._objective += penalties.consumer * _quadratic(consumer.weight - dense.consumer.weight, hidden_gram)
        self._tell("start", self._objective)
        return replace(dense, producers=producers, consumer=consumer)

    def _updated(self, chain: Chain) -> tuple[list[Tensor], ConsumerStatistics]:
        """One pass: new values for every token; the producers' cross products [width, hidden], the consumer's sums."""
        crosses = [each.weight.new_zeros(each.weight.shape, dtype=self._input_gram.dtype) for each in chain.producers]
        consumer = _sums(chain.consumer, len(chain.consumer.weight))
        solve = _consumer_inputs(chain.consumer.weight, self._settings.penalties)
        behind_inputs = behind_outputs = 0.0
        for tokens, x in self._text.pieces():
            before, wanted = tuple(room[tokens].to(x) for room in self._rooms), self._wanted[tokens].to(x)
            p, linear = solve(wanted, chain.activation.value(before)), chain.outputs(x)
            outputs = chain.activation.fitted(before, linear, p, self._settings.penalties)
            if self._watch is not None:
                behind_inputs += self._value(chain, linear, before, p, wanted)
                behind_outputs += self._value(chain, linear, outputs, p, wanted)
            consumer.add(p, wanted)
            for room, cross, each, values in zip(self._rooms, crosses, chain.producers, outputs, strict=True):
                room[tokens] = values.to(room.device)
                cross += (values - each.constant).T @ x
        self._tell("consumer inputs", behind_inputs)
        self._tell("producer outputs", behind_outputs)
        return crosses, consumer

    def _refitted(self, chain: Chain, crosses: list[Tensor], sums: ConsumerStatistics) -> Chain:
        """Every matrix fitted to the new values under a new mask, if that is the better one."""
        penalties = self._settings.penalties
        assert sums.gram is not None and sums.cross is not None
        hessian, gram = self._input_hessian, self._input_gram
        producers = tuple(
            self._better(each, hessian, gram, cross, penalties.producers)
            for each, cross in zip(chain.producers, crosses, strict=True)
        )
        hessian = Hessian(sums.gram, self._settings.damping)
        consumer = self._better(chain.consumer, hessian, sums.gram, sums.cross, penalties.consumer)
        self._tell("matrices", self._objective)
        return replace(chain, producers=producers, consumer=consumer)

    def _finished(self, chain: Chain) -> Chain:
        """The consumer on the real forward pass."""
        sums = _sums(chain.consumer, len(chain.consumer.weight))
        for tokens, x in self._text.pieces():
            sums.add(chain.hidden(x), self._wanted[tokens].to(x))
        assert sums.gram is not None and sums.cross is not None
        hessian = Hessian(sums.gram, self._settings.damping)
        optimum = hessian.solve(sums.cross, self._dense.consumer.weight)
        return replace(chain, consumer=self._masked(chain.consumer, optimum, hessian))

    def _better(self, matrix: Affine, hessian: Hessian, gram: Tensor, cross: Tensor, penalty: float) -> Affine:
        """The matrix or its successor. ||T - X W^T||^2 is W G W^T - 2 W T^T X, but for what no W changes."""
        fitted = self._masked(matrix, hessian.solve(cross, matrix.weight), hessian)
        old, new = (_quadratic(w, gram) - 2 * float((w * cross).sum()) for w in (matrix.weight, fitted.weight))
        self._objective += penalty * min(new - old, 0.0)
        return fitted if new < old else matrix

    def _masked(self, matrix: Affine, optimum: Tensor, hessian: Hessian) -> Affine:
        return replace(matrix, weight=hessian.sweep(optimum, self._pattern).to(matrix.weight))

    def _value(self, chain: Chain, linear: Outputs, outputs: Outputs, inputs: Tensor, wanted: Tensor) -> float:
        """The objective of a piece of text."""
        penalties = self._settings.penalties
        misses = [(penalties.producers, a - m) for a, m in zip(outputs, linear, strict=True)]
        misses.append((penalties.activation, inputs - chain.activation.value(outputs)))
        misses.append((penalties.consumer, wanted - inputs @ chain.consumer.weight.T))
        return sum(penalty * float(miss.double().square().sum()) for penalty, miss in misses)

    def _tell(self, step: str, objective: float) -> None:
        if self._watch is not None:
            self._objective = objective
            self._watch(step, objective)


def _sums(matrix: Affine, rows: int) -> ConsumerStatistics:
    """For what `matrix` reads; with `rows` for what it is wanted to write."""
    return ConsumerStatistics(matrix.weight.shape[1], rows, full=True, device=matrix.weight.device)


def _quadratic(weight: Tensor, gram: Tensor) -> float:
    """W G W^T, summed over rows."""
    exact = weight.to(gram)
    return float((exact @ gram * exact).sum())


def _consumer_inputs(weight: Tensor, penalties: Penalties) -> Callable[[Tensor, Tensor], Tensor]:
    """From wanted outputs [tokens, rows] and h(a) [tokens, width] to the best inputs of a consumer [rows, width]."""
    exact = weight.double()
    system = penalties.consumer * exact.T @ exact
    system.diagonal().add_(penalties.activation)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    towards_wanted = (penalties.consumer * exact @ inverse).to(weight)
    towards_hidden = (penalties.activation * inverse).to(weight)

    def best_inputs(wanted: Tensor, hidden: Tensor) -> Tensor:
        return torch.addmm(wanted @ towards_wanted, hidden, towards_hidden)

    return best_inputs
