"""The surgeon's algebra against slow, plain definitions of the same thing."""

from __future__ import annotations

import pytest
import torch
from coupled import gaussian
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.compensation import refit_consumer
from compressors.second_order import Elimination, quadratic_of
from compressors.statistics import ConsumerStatistics

DAMPING = 0.01


class Problem:
    """Correlated inputs [tokens, columns], weights [rows, columns], and outputs that the weights do not quite give."""

    def __init__(self, columns: int = 48, rows: int = 16, tokens: int = 400, noise: float = 0.5) -> None:
        self.inputs = gaussian(tokens, columns) @ (gaussian(columns, columns, seed=1) + 3 * torch.eye(columns))
        self.base = gaussian(rows, columns, seed=2)
        wanted = self.inputs @ self.base.T
        self.wanted = wanted + noise * wanted.std() * gaussian(tokens, rows, seed=3)

    @property
    def gram(self) -> Tensor:
        return self.inputs.T @ self.inputs

    @property
    def cross(self) -> Tensor:
        return self.wanted.T @ self.inputs

    @property
    def ridge(self) -> float:
        return DAMPING * float(self.gram.diagonal().mean())

    def joint_optimum(self, kept: Tensor) -> Tensor:
        """[rows, kept] by one stacked least-squares problem: the data, and the pull towards the base weights."""
        pull = self.ridge**0.5 * torch.eye(len(kept), dtype=torch.float64)
        left = torch.cat((self.inputs[:, kept], pull))
        right = torch.cat((self.wanted, pull @ self.base[:, kept].T))
        return torch.linalg.lstsq(left, right).solution.T

    def objective(self, kept: Tensor) -> float:
        """The least value of the repair's objective over all columns when only `kept` may differ from zero."""
        weights = torch.zeros_like(self.base)
        weights[:, kept] = self.joint_optimum(kept)
        error = (self.inputs @ weights.T - self.wanted).square().sum()
        return float(error + self.ridge * (weights - self.base).square().sum())

    def elimination(self, width: int = 1, batch: int | None = None) -> Elimination:
        return Elimination(quadratic_of(self.base, self.gram, self.cross, DAMPING), width, batch=batch)


def columns_without(units: list[int], width: int, columns: int) -> Tensor:
    gone = {unit * width + offset for unit in units for offset in range(width)}
    return torch.tensor([column for column in range(columns) if column not in gone])


def greedy_by_definition(problem: Problem, width: int, count: int) -> tuple[list[int], list[float]]:
    """Tries every single removal by solving its least-squares problem anew."""
    units, order, growth = problem.base.shape[1] // width, [], []
    everything = problem.base.shape[1]
    before = problem.objective(torch.arange(everything))
    for _ in range(count):
        left = [unit for unit in range(units) if unit not in order]
        values = {unit: problem.objective(columns_without([*order, unit], width, everything)) for unit in left}
        order.append(min(values, key=lambda unit: values[unit]))
        growth.append(values[order[-1]] - before)
        before = values[order[-1]]
    return order, growth


@pytest.mark.parametrize(("width", "batch"), [(1, None), (1, 1), (6, None), (6, 1)])
def test_order_and_costs_are_those_of_trying_every_removal(width: int, batch: int | None) -> None:
    problem = Problem(columns=24, rows=5, tokens=120)
    count = 12 // width + 1
    elimination = problem.elimination(width, batch)
    elimination.remove(count)
    order, growth = greedy_by_definition(problem, width, count)
    assert elimination.order == order
    assert elimination.costs[order].tolist() == pytest.approx(growth, rel=1e-8)


@pytest.mark.parametrize("compact_columns", [5, 1024])
@pytest.mark.parametrize(("width", "batch"), [(1, None), (1, 1), (1, 4), (1, 7), (4, None), (4, 2)])
def test_the_updated_weights_are_the_joint_least_squares(
    width: int, batch: int | None, compact_columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rounds, the pools and the pending downdates, nothing but the removed set may matter."""
    monkeypatch.setattr("compressors.second_order.COMPACT_COLUMNS", compact_columns)
    problem = Problem()
    elimination = problem.elimination(width, batch)
    elimination.remove(24 // width)
    kept, weights = elimination.survivors()
    assert torch.equal(kept, columns_without(elimination.order, width, 48))
    assert torch.allclose(weights, problem.joint_optimum(kept), rtol=0, atol=1e-8)
    grown = problem.objective(kept) - problem.objective(torch.arange(48))
    assert float(elimination.costs.sum()) == pytest.approx(grown, rel=1e-8)


@pytest.mark.parametrize("compact_columns", [5, 1024])
def test_removing_in_two_goes_is_removing_in_one(compact_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressors.second_order.COMPACT_COLUMNS", compact_columns)
    once, twice = Problem().elimination(), Problem().elimination()
    once.remove(20)
    twice.remove(7)
    twice.remove(13)
    assert twice.order == once.order
    assert torch.allclose(twice.survivors()[1], once.survivors()[1], rtol=0, atol=1e-10)


def test_selection_followed_by_the_repair_is_the_sequential_result() -> None:
    """The weights that the pipeline's refit puts in place are those the surgeon had in mind."""
    problem = Problem()
    elimination = problem.elimination()
    elimination.remove(20)
    kept, weights = elimination.survivors()
    statistics = ConsumerStatistics(48, 16, full=True, device=torch.device("cpu"))
    statistics.add(problem.inputs, problem.wanted)
    consumer = nn.Linear(len(kept), 16, bias=False).double().requires_grad_(False)
    consumer.weight.copy_(problem.base[:, kept])
    same_ridge = problem.ridge / float(problem.gram.diagonal()[kept].mean())
    refit_consumer(consumer, statistics, kept, damping=same_ridge)
    assert torch.allclose(consumer.weight, weights, rtol=0, atol=1e-8)


def test_without_a_wanted_output_the_weights_start_from_themselves() -> None:
    problem = Problem(noise=0.0)
    own = quadratic_of(problem.base, problem.gram, None, DAMPING)
    wanted = quadratic_of(problem.base, problem.gram, problem.cross, DAMPING)
    assert torch.equal(own.weights, problem.base.T)
    assert torch.allclose(own.weights, wanted.weights, atol=1e-9)


def test_a_channel_that_others_can_say_is_among_the_three_cheapest() -> None:
    """40 = 2 c3 - c7: any one of the three can go for nothing, and afterwards the other two cannot."""
    inputs, base = gaussian(1000, 48), gaussian(16, 48, seed=1)
    inputs[:, 40] = 2 * inputs[:, 3] - inputs[:, 7]
    gram = inputs.T @ inputs
    elimination = Elimination(quadratic_of(base, gram, None, 1e-9), 1)
    one_shot = elimination.ranking()
    assert set(one_shot.order[:3]) == {3, 7, 40}
    elimination.remove(1)
    assert elimination.order[0] in {3, 7, 40}
    assert not {3, 7, 40} & set(elimination.ranking().order[1:3])
    assert float(elimination.costs[elimination.order[0]]) < 1e-4 * float(one_shot.costs.median())


@pytest.mark.parametrize("batch", [None, 1, 8])
def test_only_one_of_two_twins_is_cheap(batch: int | None) -> None:
    """One look at all scores would send both: each is worthless as long as the other is there."""
    inputs, base = gaussian(1000, 48), gaussian(16, 48, seed=1)
    inputs[:, 1] = inputs[:, 0]
    base[:, :2] *= 5
    elimination = Elimination(quadratic_of(base, inputs.T @ inputs, None, 1e-9), 1, batch=batch)
    assert set(elimination.ranking().order[:2]) == {0, 1}
    elimination.remove(40)
    assert elimination.order[0] in {0, 1}
    assert len({0, 1} & set(elimination.order)) == 1, "the second twin is the dearest of all"


def test_the_order_does_not_depend_on_how_far_it_is_followed() -> None:
    problem = Problem()
    short, long = problem.elimination(), problem.elimination()
    short.remove(10)
    long.remove(30)
    assert long.order[:10] == short.order
    assert sorted(long.ranking().order) == list(range(48))
    assert bool(torch.isfinite(long.ranking().costs).all())


def test_removing_everything_is_possible_and_costs_the_whole_signal() -> None:
    problem = Problem()
    elimination = problem.elimination()
    elimination.remove(48)
    nothing = problem.wanted.square().sum() + problem.ridge * problem.base.square().sum()
    expected = float(nothing) - problem.objective(torch.arange(48))
    assert sorted(elimination.order) == list(range(48))
    assert float(elimination.costs.sum()) == pytest.approx(expected, rel=1e-8)


def test_rounds_cost_little_against_plain_greed() -> None:
    """Half of 300 columns, 16 at a time from a pool of 32: within 2 % of one by one, far under one look at all."""
    problem = Problem(columns=300, rows=40, tokens=600, noise=0.1)
    totals = {}
    for batch in (1, 16):
        elimination = problem.elimination(batch=batch)
        elimination.remove(150)
        totals[batch] = float(elimination.costs.sum())
    one_shot = problem.elimination().ranking().order[150:]
    grown = problem.objective(torch.tensor(sorted(one_shot))) - problem.objective(torch.arange(300))
    assert totals[16] < 1.02 * totals[1] < 0.95 * grown


def test_a_silent_channel_goes_first_and_for_nothing() -> None:
    problem = Problem()
    problem.inputs[:, 5] = 0
    problem.base[:, 5] *= 100
    elimination = problem.elimination()
    elimination.remove(10)
    kept, weights = elimination.survivors()
    assert elimination.order[0] == 5 and float(elimination.costs[5]) == 0.0
    assert torch.allclose(weights, problem.joint_optimum(kept), rtol=0, atol=1e-8)


def test_fewer_tokens_than_channels_still_gives_an_order() -> None:
    problem = Problem(tokens=10)
    elimination = problem.elimination()
    elimination.remove(40)
    assert len(set(elimination.order)) == 40 and bool((elimination.costs >= 0).all())


def test_an_indefinite_gram_matrix_is_damped() -> None:
    gram = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1e-3], dtype=torch.float64))
    elimination = Elimination(quadratic_of(gaussian(3, 4), gram, None, 1e-6), 1)
    elimination.remove(2)
    assert elimination.order[0] == 3 and bool(torch.isfinite(elimination.costs).all())


def test_a_hopeless_gram_matrix_is_reported() -> None:
    with pytest.raises(CompressionError, match="cannot be factorised"):
        quadratic_of(gaussian(3, 4), -torch.eye(4, dtype=torch.float64), None, DAMPING)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["gram", "cross"])
def test_products_that_are_not_finite_are_reported(value: float, place: str) -> None:
    problem = Problem(columns=6)
    products = {"gram": problem.gram, "cross": problem.cross}
    products[place][2, 3] = value
    with pytest.raises(CompressionError, match="not finite"):
        quadratic_of(problem.base, products["gram"], products["cross"], DAMPING)


def test_single_precision_finds_nearly_the_same_set() -> None:
    problem = Problem(columns=96)
    single = Elimination(quadratic_of(problem.base, problem.gram.float(), problem.cross.float(), DAMPING), 1)
    double = problem.elimination()
    for elimination in (single, double):
        elimination.remove(48)
    assert single.survivors()[1].dtype == torch.float32
    assert len(set(single.order) & set(double.order)) >= 46
