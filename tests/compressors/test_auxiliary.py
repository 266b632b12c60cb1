"""Each update finds the value that it says it finds, element by element, and never a worse one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from compressors.auxiliary import Gated, Penalties, Relu

GRID = torch.linspace(-8, 8, 32001, dtype=torch.float64)
PENALTIES = [
    Penalties(),
    Penalties(producers=0.1, consumer=2.0, activation=5.0),
    Penalties(producers=3.0, activation=0.2),
]


def values(*names: str, count: int = 60) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(len(names))
    return [2 * torch.randn(count, dtype=torch.float64, generator=draw) for _ in names]


@pytest.mark.parametrize("penalties", PENALTIES)
def test_the_output_before_a_relu_is_the_best_there_is(penalties: Penalties) -> None:
    given, inputs = values("given", "inputs")
    (found,) = Relu().fitted((given,), (given,), inputs, penalties)

    def cost(output: torch.Tensor) -> torch.Tensor:
        fit = penalties.producers * (output - given[:, None]).square()
        return fit + penalties.activation * (inputs[:, None] - output.relu()).square()

    assert bool((cost(found[:, None])[:, 0] <= cost(GRID).min(dim=1).values + 1e-9).all())


def test_both_branches_of_the_relu_by_hand() -> None:
    """Wanted 3, given 1: the mean. Wanted -3, given -1: the given. Wanted 1, given -1: 0 costs 2, the given 1."""
    given, inputs = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([3.0, -3.0, 1.0])
    (found,) = Relu().fitted((given,), (given,), inputs, Penalties())
    assert found.tolist() == [2.0, -1.0, -1.0]


@pytest.mark.parametrize("activation", [silu, gelu, torch.relu])
@pytest.mark.parametrize("penalties", PENALTIES)
def test_up_is_the_best_there_is_for_its_gate(activation: object, penalties: Penalties) -> None:
    gate, up, given_gate, given_up, inputs = values("gate", "up", "given gate", "given up", "inputs")
    _, found = Gated(activation).fitted((gate, up), (given_gate, given_up), inputs, penalties)  # type: ignore[arg-type]
    opened = activation(gate)  # type: ignore[operator]
    slope = penalties.producers * (found - given_up) - penalties.activation * opened * (inputs - opened * found)
    assert float(slope.abs().max()) < 1e-9


@pytest.mark.parametrize("activation", [silu, gelu, torch.relu])
@pytest.mark.parametrize("penalties", PENALTIES)
def test_no_element_of_the_gate_gets_worse_and_most_are_near_their_best(
    activation: object, penalties: Penalties
) -> None:
    gate, up, given_gate, given_up, inputs = values("gate", "up", "given gate", "given up", "inputs")
    act: object = activation
    found, found_up = Gated(act).fitted((gate, up), (given_gate, given_up), inputs, penalties)  # type: ignore[arg-type]

    def cost(gates: torch.Tensor) -> torch.Tensor:
        fit = penalties.producers * (gates - given_gate[:, None]).square()
        said = act(gates) * found_up[:, None]  # type: ignore[operator]
        return fit + penalties.activation * (inputs[:, None] - said).square()

    before, after, best = (cost(gate[:, None])[:, 0], cost(found[:, None])[:, 0], cost(GRID).min(dim=1).values)
    assert bool((after <= before).all())
    assert float((after - best).clamp_min(0).median()) < 0.05 * float((before - best).median())


def test_values_that_fit_everything_stay() -> None:
    """An exact FFN has nothing to gain, so nothing moves."""
    gate, up = values("gate", "up")
    chain = Gated(silu)
    kept = chain.fitted((gate, up), (gate, up), chain.value((gate, up)), Penalties())
    assert torch.allclose(kept[0], gate, atol=1e-12) and torch.allclose(kept[1], up, atol=1e-12)
    above = values("above")[0].abs()
    assert torch.equal(Relu().fitted((above,), (above,), above, Penalties())[0], above)


def test_what_the_consumer_reads() -> None:
    gate, up = values("gate", "up")
    assert torch.equal(Gated(silu).value((gate, up)), silu(gate) * up)
    assert torch.equal(Relu().value((gate,)), gate.clamp_min(0))
