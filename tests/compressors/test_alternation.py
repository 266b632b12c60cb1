"""The alternation never raises its objective, keeps its masks, and returns to an FFN that was masked to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from compressors.alternation import Affine, Alternation, Chain, Settings, Sweeps
from compressors.auxiliary import Activation, Gated, Penalties, Relu
from compressors.masked_fit import Hessian
from compressors.masks import Pattern, matrix_mask

HIDDEN, WIDTH, TOKENS, PIECE = 24, 40, 600, 250
PATTERNS = [Pattern(0.5), Pattern(0.8), Pattern(0.5, 4), Pattern(0.75, 4)]
KINDS: dict[str, tuple[Activation, int]] = {"gated": (Gated(silu), 2), "relu": (Relu(), 1)}
SETTINGS = [
    Settings(),
    Settings(penalties=Penalties(producers=0.2, consumer=8.0, activation=1.0)),
    Settings(penalties=Penalties(producers=5.0, consumer=0.5, activation=3.0), damping=0.3),
]


@dataclass
class Tokens:
    """Correlated inputs in memory; counts its passes and the columns of values that it is asked to keep."""

    inputs: Tensor
    wanted: Callable[[slice], Tensor] | None = None
    passes: int = 0
    columns: dict[str, int] = field(default_factory=dict)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        self.passes += 1
        for first in range(0, len(self.inputs), PIECE):
            tokens = slice(first, min(first + PIECE, len(self.inputs)))
            yield tokens, self.inputs[tokens]

    def room(self, name: str, columns: int) -> Tensor:
        self.columns[name] = columns
        return self.inputs.new_empty(len(self.inputs), columns)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens_of(seed: int = 0) -> Tokens:
    mixing = torch.eye(HIDDEN, dtype=torch.float64) + 0.4 * draw(HIDDEN, HIDDEN, seed=seed + 1)
    return Tokens(draw(TOKENS, HIDDEN, seed=seed) @ mixing)


def chain_of(kind: str, *, biased: bool = False) -> Chain:
    activation, count = KINDS[kind]
    affines = [
        Affine(weight=draw(rows, columns, seed=20 + k) / columns**0.5, bias=draw(rows, seed=30 + k) if biased else None)
        for k, (rows, columns) in enumerate([(WIDTH, HIDDEN)] * count + [(HIDDEN, WIDTH)])
    ]
    return Chain(producers=tuple(affines[:-1]), consumer=affines[-1], activation=activation)


def matrices(chain: Chain) -> list[Tensor]:
    return [each.weight for each in (*chain.producers, chain.consumer)]


def block_error(chain: Chain, dense: Chain, inputs: Tensor) -> float:
    said, wanted = (each.hidden(inputs) @ each.consumer.weight.T for each in (chain, dense))
    return float((said - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("settings", "biased"), zip(SETTINGS, (False, True, False), strict=True))
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: f"{pattern.name}-{pattern.share}")
def test_no_step_raises_the_objective(kind: str, settings: Settings, pattern: Pattern, biased: bool) -> None:
    told: list[tuple[str, float]] = []
    dense = chain_of(kind, biased=biased)
    found = Alternation(dense, tokens_of(), Sweeps(pattern), settings, lambda *step: told.append(step)).run()
    steps = ["consumer inputs", "producer outputs", "matrices"]
    assert [name for name, _ in told] == ["start", *steps * (settings.epochs - 1)]
    objectives = [value for _, value in told]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(objectives))
    assert objectives[-1] < objectives[0] / 2
    for new, old in zip(matrices(found), matrices(dense), strict=True):
        assert int((new == 0).sum()) == pattern.quota(0, old.numel())


def test_the_objective_that_is_told_is_the_formula() -> None:
    """At the start it is what the sweeps left behind; later ones are counted from the values themselves."""
    dense, told = chain_of("gated"), {}
    settings = Settings(epochs=2, finish=False)
    text = tokens_of()
    found = Alternation(dense, text, Sweeps(Pattern(0.5)), settings, told.__setitem__).run()
    start = Alternation(dense, tokens_of(), Sweeps(Pattern(0.5)), replace(settings, epochs=1), None).run()
    x = text.inputs
    hidden = dense.hidden(x)
    misses = [x @ (new.weight - old.weight).T for new, old in zip(start.producers, dense.producers, strict=True)]
    misses.append(hidden @ (start.consumer.weight - dense.consumer.weight).T)
    assert told["start"] == pytest.approx(sum(float(miss.square().sum()) for miss in misses), rel=1e-9)
    assert told["matrices"] <= told["producer outputs"] < told["consumer inputs"] < told["start"]
    assert [w.shape for w in matrices(found)] == [w.shape for w in matrices(dense)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_epoch_without_finish_is_sparsegpt(kind: str) -> None:
    dense, text, pattern = chain_of(kind), tokens_of(), Pattern(0.6)
    found = Alternation(dense, text, Sweeps(pattern), Settings(epochs=1, finish=False)).run()
    gram = partial(lambda x: x.T @ x)
    hessian = Hessian(gram(text.inputs), 0.01)
    for new, old in zip(found.producers, dense.producers, strict=True):
        assert torch.allclose(new.weight, hessian.sweep(old.weight, pattern))
    consumer = Hessian(gram(dense.hidden(text.inputs)), 0.01).sweep(dense.consumer.weight, pattern)
    assert torch.allclose(found.consumer.weight, consumer)
    assert text.passes == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
def test_a_planted_mask_is_kept_without_loss(kind: str, biased: bool) -> None:
    """An FFN with its zeros already where the pattern may have them is its own optimum: nothing is lost."""
    pattern, dense = Pattern(0.6), chain_of(kind, biased=biased)
    masks = [matrix_mask(draw(*w.shape, seed=40 + k), pattern) for k, w in enumerate(matrices(dense))]
    planted = [w.masked_fill(mask, 0.0) for w, mask in zip(matrices(dense), masks, strict=True)]
    affines = [replace(a, weight=w) for a, w in zip((*dense.producers, dense.consumer), planted, strict=True)]
    sparse = replace(dense, producers=tuple(affines[:-1]), consumer=affines[-1])
    found = Alternation(sparse, tokens_of(), Sweeps(pattern), Settings(damping=1e-9, input_damping=1e-9)).run()
    assert block_error(found, sparse, tokens_of().inputs) < 1e-9
    for new, old in zip(matrices(found), planted, strict=True):
        assert torch.equal(new == 0, old == 0) and torch.allclose(new, old, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: f"{pattern.name}-{pattern.share}")
def test_the_whole_ffn_is_nearer_to_the_dense_one_than_by_sparsegpt(kind: str, pattern: Pattern) -> None:
    """On text that was calibrated with and on other text of its kind; the finish adds to the alternation."""
    dense, other = chain_of(kind), tokens_of(seed=60).inputs
    inputs = tokens_of().inputs
    errors = {
        name: [
            block_error(Alternation(dense, tokens_of(), Sweeps(pattern), settings).run(), dense, x)
            for x in (inputs, other)
        ]
        for name, settings in (
            ("sparsegpt", Settings(epochs=1, finish=False)),
            ("alternated", Settings(finish=False)),
            ("both", Settings()),
        )
    }
    assert errors["both"][0] < errors["sparsegpt"][0]
    assert errors["both"][0] < errors["alternated"][0]


def test_a_pass_an_epoch_and_only_producer_outputs_are_remembered() -> None:
    text = tokens_of()
    Alternation(chain_of("gated"), text, Sweeps(Pattern(0.5)), Settings(epochs=4)).run()
    assert text.passes == 1 + 3 + 1
    assert text.columns == {"output-0": WIDTH, "output-1": WIDTH, "wanted": HIDDEN}


def test_pieces_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = chain_of("gated")
    pieced = Alternation(dense, tokens_of(), Sweeps(Pattern(0.7)), Settings()).run()
    monkeypatch.setitem(globals(), "PIECE", TOKENS)
    whole = Alternation(dense, tokens_of(), Sweeps(Pattern(0.7)), Settings()).run()
    for one, other in zip(matrices(pieced), matrices(whole), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
