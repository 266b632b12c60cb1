"""Learning masks: planted optima are found, budgets hold at every step, and going on after a kill changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from compressors.bernoulli import Limit
from compressors.policy import Baseline, PolicyConfig, PolicyState, baselines, learn

UNITS = 40
DEAD = torch.arange(UNITS) % 4 == 1
LIMITS = (Limit(span=slice(0, UNITS), costs=torch.ones(UNITS, dtype=torch.float64), most=float(UNITS - DEAD.sum())),)
CONFIG = PolicyConfig(steps=300, samples=8)


@dataclass
class Planted:
    """Units of which a quarter is for nothing; every step's text adds its own to all losses alike."""

    seen: list[tuple[int, Tensor]] = field(default_factory=list)

    def losses(self, masks: Tensor, step: int) -> Tensor:
        self.seen.append((step, masks))
        return 5 - 0.1 * masks[:, ~DEAD].sum(dim=1) + (step * 37 % 11) * 0.2


def first(chance: float = 0.75) -> PolicyState:
    return PolicyState(step=0, probabilities=torch.full((UNITS,), chance, dtype=torch.float64))


@pytest.mark.parametrize(("baseline", "apart"), [("others", 0.45), ("moving_average", 0.1), ("none", -1.0)])
def test_units_that_are_for_nothing_go(baseline: Baseline, apart: float) -> None:
    """A moving average cannot take away what a step's text costs, and is slower; without one nearly nothing moves."""
    found = learn(replace(CONFIG, baseline=baseline), first(), LIMITS, Planted(), seed=0)
    gap = float(found[~DEAD].mean() - found[DEAD].mean())
    assert gap > apart
    if baseline == "others":
        assert found[DEAD].max() < found[~DEAD].min()
    if baseline == "none":
        assert gap < 0.1


def test_the_budget_holds_after_every_step() -> None:
    planted = Planted()
    states: list[PolicyState] = []
    learn(replace(CONFIG, steps=20), first(1.0), LIMITS, planted, seed=1, keep=states.append)
    assert [state.step for state in states] == list(range(1, 21))
    for state in states:
        assert float(state.probabilities.sum()) <= LIMITS[0].most * (1 + 1e-12)
        assert state.probabilities.min() >= 0 and state.probabilities.max() <= 1


def test_going_on_is_the_same_as_not_stopping_and_the_seed_decides() -> None:
    states: list[PolicyState] = []
    whole = learn(replace(CONFIG, steps=60), first(), LIMITS, Planted(), seed=3, keep=states.append)
    middle = next(state for state in states if state.step == 30)
    planted = Planted()
    again = learn(replace(CONFIG, steps=60), middle, LIMITS, planted, seed=3)
    assert torch.equal(whole, again) and planted.seen[0][0] == 30
    assert not torch.equal(whole, learn(replace(CONFIG, steps=60), first(), LIMITS, Planted(), seed=4))
    done = learn(replace(CONFIG, steps=60), states[-1], LIMITS, Planted(), seed=3)
    assert torch.equal(done, whole)


def test_the_loss_s_unit_does_not_matter() -> None:
    """A step is measured by the spread of the losses, so a loss in bits learns what one in nats does."""

    @dataclass
    class Scaled(Planted):
        def losses(self, masks: Tensor, step: int) -> Tensor:
            return 1000 * Planted.losses(self, masks, step)

    config = replace(CONFIG, steps=40)
    one, other = (learn(config, first(), LIMITS, kind(), seed=0) for kind in (Planted, Scaled))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_a_loss_is_compared_with() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    later = PolicyState(step=4, probabilities=torch.ones(1), average=2.5)
    assert baselines("others", losses, later).tolist() == [4.0, 3.5, 1.5]
    assert baselines("moving_average", losses, later).tolist() == [2.5] * 3
    assert baselines("moving_average", losses, first()).tolist() == losses.tolist(), "nothing is known yet"
    assert baselines("none", losses, later).tolist() == [0.0] * 3


def test_a_moving_average_begins_with_the_first_loss_and_forgets() -> None:
    states: list[PolicyState] = []
    config = replace(CONFIG, steps=3, baseline="moving_average", window=4)

    @dataclass
    class Told(Planted):
        def losses(self, masks: Tensor, step: int) -> Tensor:
            return torch.full((len(masks),), (8.0, 4.0, 0.0)[step], dtype=torch.float64)

    found = learn(config, first(), LIMITS, Told(), seed=0, keep=states.append)
    assert [state.average for state in states] == [8.0, 7.0, 5.25]
    assert torch.isfinite(found).all()


def test_a_flat_loss_moves_nothing() -> None:
    @dataclass
    class Flat(Planted):
        def losses(self, masks: Tensor, step: int) -> Tensor:
            return torch.full((len(masks),), 3.0, dtype=torch.float64)

    found = learn(replace(CONFIG, steps=10), first(), LIMITS, Flat(), seed=0)
    assert torch.equal(found, first().probabilities)
