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
    """The matrices of an FFN, and what stands between them: nothing, where the consumer alone is free."""

    producers: tuple[Affine, ...]
    consumer: Affine
    activation: Activation | None

    def outputs(self, inputs: Tensor) -> Outputs:
        return tuple(producer(inputs) for producer in self.producers)

    def read(self, outputs: Outputs, inputs: Tensor) -> Tensor:
        """What the consumer reads [tokens, width] where the producers give `outputs`."""
        return inputs if self.activation is None else self.activation.value(outputs)

    def hidden(self, inputs: Tensor) -> Tensor:
        return self.read(self.outputs(inputs), inputs)


class Zeros(Protocol):
    """What becomes zero in matrices at their optimum [rows, columns] by `hessian`, while the rest makes good for it."""

    def producer(self, hessian: Hessian, optimum: Tensor) -> Tensor: ...

    def consumer(self, hessian: Hessian, optimum: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Sweeps:
    """The pattern's zeros in every matrix, as SparseGPT finds them."""

    pattern: Pattern

    def producer(self, hessian: Hessian, optimum: Tensor) -> Tensor:
        return hessian.sweep(optimum, self.pattern)

    def consumer(self, hessian: Hessian, optimum: Tensor) -> Tensor:
        return hessian.sweep(optimum, self.pattern)


class Text(Protocol):
    """The inputs of an FFN, which can be read again and again, and room for values of every token."""

    @property
    def pieces(self) -> Callable[[], Iterator[tuple[slice, Tensor]]]:
        """Passes once: which tokens, and their inputs [tokens, hidden]."""

    @property
    def room(self) -> Callable[[str, int], Tensor]:
        """From a name and a count of columns to [all tokens, columns] to write to."""

    @property
    def wanted(self) -> Callable[[slice], Tensor] | None:
        """From tokens to the outputs [tokens, rows] that are wanted, without biases; None for the chain's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`epochs` counts how often matrices are swept, the first time as SparseGPT does. `damping` is the Hessians'.

    `finish` fits the consumer once more at the end, on what the masked producers really give.
    """

    epochs: int = 4
    penalties: Penalties = field(default_factory=Penalties)
    damping: float = 0.01
    input_damping: float = 0.01
    finish: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Products:
    """G = X^T X of what a matrix reads, with its Hessian, and T^T X [rows, columns] of what it is to write."""

    gram: Tensor
    hessian: Hessian
    cross: Tensor

    @classmethod
    def of(cls, sums: ConsumerStatistics, damping: float) -> _Products:
        assert sums.gram is not None and sums.cross is not None
        return cls(gram=sums.gram, hessian=Hessian(sums.gram, damping), cross=sums.cross)

    def value(self, weight: Tensor) -> float:
        """||T - X W^T||^2 but for ||T||^2: W G W^T - 2 W X^T T."""
        return _quadratic(weight, self.gram) - 2 * float((weight * self.cross).sum())


class Alternation:
    """One FFN's alternation. `watch` is told the objective behind every step: squared outputs, summed over tokens."""

    def __init__(self, dense: Chain, text: Text, zeros: Zeros, settings: Settings, watch: Watch | None = None) -> None:
        self._dense, self._text, self._zeros, self._settings, self._watch = dense, text, zeros, settings, watch
        self._rooms = [text.room(f"output-{k}", len(each.weight)) for k, each in enumerate(dense.producers)]
        self._own = text.room("wanted", len(dense.consumer.weight)) if text.wanted is None else None
        self._energy = self._objective = 0.0

    def run(self) -> Chain:
        """The chain with its zeros. Raises CompressionError if activations are not finite."""
        self._inputs, hidden = self._dense_sums()
        start = chain = self._started(hidden)
        left = self._objective / self._settings.penalties.consumer
        for _ in range(self._settings.epochs - 1):
            chain = self._refitted(chain, *self._updated(chain))
        if not self._settings.finish:
            return chain
        finished, error = self._finished(chain)
        return start if self._text.wanted is not None and left < error else finished

    def _dense_sums(self) -> tuple[_Products | None, _Products]:
        """Fills the rooms with dense values; products of what the producers read, and of what the consumer reads."""
        producers, consumer = self._dense.producers, self._dense.consumer
        inputs = _sums(producers[0], 0) if producers else None
        hidden = _sums(consumer, len(consumer.weight) if self._own is None else 0)
        for tokens, x in self._text.pieces():
            outputs = self._dense.outputs(x)
            h = self._dense.read(outputs, x)
            for room, values in zip(self._rooms, outputs, strict=True):
                room[tokens] = values.to(room.device)
            if inputs is not None:
                inputs.add(x)
            if self._own is None:
                wanted = self._wanted(tokens, x)
                self._energy += float(wanted.double().square().sum())
                hidden.add(h, wanted)
            else:
                self._own[tokens] = (h @ consumer.weight.T).to(self._own.device)
                hidden.add(h)
        read = None if inputs is None else _Products.of(inputs, self._settings.input_damping)
        return read, _Products.of(hidden, self._settings.damping)

    def _wanted(self, tokens: slice, like: Tensor) -> Tensor:
        if self._text.wanted is not None:
            return self._text.wanted(tokens)
        assert self._own is not None
        return self._own[tokens].to(like)

    def _started(self, hidden: _Products) -> Chain:
        """The first zeros. What they leave behind is the objective, because dense values fit the rest."""
        dense, zeros, penalties = self._dense, self._zeros, self._settings.penalties
        base = dense.consumer.weight
        optimum = base if self._own is not None else hidden.hessian.solve(hidden.cross, base)
        weight = zeros.consumer(hidden.hessian, optimum).to(base)
        left = _quadratic(weight - base, hidden.gram) if self._own is not None else self._energy + hidden.value(weight)
        self._objective = penalties.consumer * left
        producers = []
        for each in dense.producers:
            assert self._inputs is not None
            producers.append(replace(each, weight=zeros.producer(self._inputs.hessian, each.weight).to(each.weight)))
            moved = producers[-1].weight - each.weight
            self._objective += penalties.producers * _quadratic(moved, self._inputs.gram)
        self._tell("start", self._objective)
        return replace(dense, producers=tuple(producers), consumer=replace(dense.consumer, weight=weight))

    def _updated(self, chain: Chain) -> tuple[list[Tensor], _Products]:
        """One pass: new values for every token; the producers' cross products [width, hidden], the consumer's own."""
        crosses = [torch.zeros_like(each.weight, dtype=torch.float64) for each in chain.producers]
        sums = _sums(chain.consumer, len(chain.consumer.weight))
        solve = _consumer_inputs(chain.consumer.weight, self._settings.penalties)
        behind_inputs = behind_outputs = 0.0
        for tokens, x in self._text.pieces():
            before, wanted = tuple(room[tokens].to(x) for room in self._rooms), self._wanted(tokens, x)
            p, linear = solve(wanted, chain.read(before, x)), chain.outputs(x)
            outputs = before
            if chain.activation is not None:
                outputs = chain.activation.fitted(before, linear, p, self._settings.penalties)
            if self._watch is not None:
                behind_inputs += self._value(chain, linear, before, p, chain.read(before, x), wanted)
                behind_outputs += self._value(chain, linear, outputs, p, chain.read(outputs, x), wanted)
            sums.add(p, wanted)
            for room, cross, each, values in zip(self._rooms, crosses, chain.producers, outputs, strict=True):
                room[tokens] = values.to(room.device)
                cross += (values - each.constant).T @ x
        self._tell("consumer inputs", behind_inputs)
        self._tell("producer outputs", behind_outputs)
        return crosses, _Products.of(sums, self._settings.damping)

    def _refitted(self, chain: Chain, crosses: list[Tensor], read: _Products) -> Chain:
        """Every matrix fitted to the new values with new zeros, if that is the better one."""
        zeros, penalties = self._zeros, self._settings.penalties
        producers = []
        for each, cross in zip(chain.producers, crosses, strict=True):
            assert self._inputs is not None
            own = replace(self._inputs, cross=cross)
            fitted = zeros.producer(own.hessian, own.hessian.solve(cross, each.weight))
            producers.append(self._better(each, fitted, own, penalties.producers))
        fitted = zeros.consumer(read.hessian, read.hessian.solve(read.cross, chain.consumer.weight))
        consumer = self._better(chain.consumer, fitted, read, penalties.consumer)
        self._tell("matrices", self._objective)
        return replace(chain, producers=tuple(producers), consumer=consumer)

    def _finished(self, chain: Chain) -> tuple[Chain, float]:
        """The consumer on the real forward pass, if that is the better one; the error that is left."""
        sums = _sums(chain.consumer, len(chain.consumer.weight))
        for tokens, x in self._text.pieces():
            sums.add(chain.hidden(x), self._wanted(tokens, x))
        real = _Products.of(sums, self._settings.damping)
        fitted = self._zeros.consumer(real.hessian, real.hessian.solve(real.cross, self._dense.consumer.weight))
        consumer = self._better(chain.consumer, fitted, real, 0.0)
        return replace(chain, consumer=consumer), self._energy + real.value(consumer.weight)

    def _better(self, matrix: Affine, fitted: Tensor, products: _Products, penalty: float) -> Affine:
        """The matrix or its successor."""
        weight = fitted.to(matrix.weight)
        gained = products.value(matrix.weight) - products.value(weight)
        self._objective -= penalty * max(gained, 0.0)
        return replace(matrix, weight=weight) if gained > 0 else matrix

    def _value(
        self, chain: Chain, linear: Outputs, outputs: Outputs, inputs: Tensor, hidden: Tensor, wanted: Tensor
    ) -> float:
        """The objective of a piece of text."""
        penalties = self._settings.penalties
        misses = [(penalties.producers, a - m) for a, m in zip(outputs, linear, strict=True)]
        misses.append((penalties.activation, inputs - hidden))
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
