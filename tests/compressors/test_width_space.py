"""Widths that exist, budgets that hold, and the ways of spreading one that look at shapes or influence alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_models import build_model, random_windows

from artifacts.errors import ConfigError
from compressors.allocation import ALLOCATORS, allocator_named, depth_increasing, global_threshold, influence_softmax
from compressors.allocation.depth_increasing import layer_weights
from compressors.allocation.influence_softmax import half_influences, softmax_weights
from compressors.allocation.problem import Problem
from compressors.allocation.space import Target, WidthSpace, require_target, resized
from compressors.allocation.uniform import uniform_within
from compressors.arch import WidthUnit
from compressors.costs import CostModel, kv_byte_costs
from compressors.methods import REGISTRY
from compressors.plan import LayerBudget, Ranking
from compressors.resident import ResidentModel
from compressors.sequential import PruningJob

DENSE = LayerBudget(kv_groups=4, ffn_channels=172)
BOTH: tuple[WidthUnit, ...] = ("kv", "ffn")
# 3,072 parameters a KV group and 192 a channel, with 64 for each half's norm.
COSTS = CostModel(
    kind="params",
    fixed=0,
    halves={"kv": (0, *(64 + 3072 * n for n in range(1, 5))), "ffn": (0, *(64 + 192 * n for n in range(1, 173)))},
)


def space_of(units: tuple[WidthUnit, ...] = BOTH, multiple_of: int = 1, layers: int = 5) -> WidthSpace:
    return WidthSpace(layers=layers, dense=DENSE, units=units, multiple_of=multiple_of)


def target_of(ratio: float, units: tuple[WidthUnit, ...] = BOTH, multiple_of: int = 1) -> Target:
    return require_target(space_of(units, multiple_of), COSTS, ratio)


def problem_of(target: Target, method: str = "magnitude", windows: bool = False, **changes: int) -> Problem:
    model = build_model(hidden_size=64, intermediate_size=172, num_hidden_layers=5, **changes)
    job = PruningJob(
        method=REGISTRY.named(method),
        units=target.space.units,
        allocation=target.space.dense_allocation,
        repair="none",
        seed=0,
    )
    return Problem(
        target=target, model=ResidentModel(model), job=job, windows=random_windows(4, 16) if windows else None
    )


def test_widths_are_multiples_or_whole() -> None:
    assert space_of(multiple_of=50).widths == {"kv": (1, 2, 3, 4), "ffn": (50, 100, 150, 172)}
    assert space_of(("ffn",), multiple_of=86).widths == {"kv": (4,), "ffn": (86, 172)}
    assert space_of().halves[:3] == ((0, "kv"), (0, "ffn"), (1, "kv"))
    assert (space_of().nearest("kv", 2.5), space_of().nearest("ffn", 500)) == (3, 172)


def test_neighbours() -> None:
    space = space_of(multiple_of=50)
    assert [space.next_wider("ffn", n) for n in (50, 150, 172)] == [100, 172, None]
    assert [space.next_narrower("ffn", n) for n in (50, 150, 172)] == [None, 100, 150]


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.125, 0.25, 0.3, 0.5, 0.58])
@pytest.mark.parametrize("multiple_of", [1, 8, 32])
@pytest.mark.parametrize("units", [BOTH, ("ffn",)])
@pytest.mark.parametrize("name", ["uniform", "depth_increasing", "influence_softmax", "global_threshold"])
def test_every_spread_holds_the_budget_and_wastes_little(
    name: str, units: tuple[WidthUnit, ...], multiple_of: int, ratio: float
) -> None:
    """After rounding, too; apart from the uniform one, no half could be a notch wider."""
    target = target_of(ratio, units, multiple_of)
    allocator = allocator_named(name)
    found = allocator.allocate(allocator.config, problem_of(target, windows=True))
    assert target.holds(found)
    assert all(layer.ffn_channels in target.space.widths["ffn"] for layer in found)
    if ratio == 0:
        assert found == target.space.dense_allocation
    if name == "uniform":
        assert len(set(found)) == 1
        assert target.costs.of(found) + 5 * 192 * (multiple_of + 44) > target.limit
    else:
        assert [half for half in target.space.halves if target.widened(found, half)] == []


def test_budgets_are_shares_of_the_dense_cost() -> None:
    dense = 5 * (64 + 64 + 4 * 3072 + 172 * 192)
    assert target_of(0.25).limit == pytest.approx(0.75 * dense)


@pytest.mark.parametrize(
    ("ratio", "units", "multiple_of", "fragment"),
    [
        (0.8, ("ffn",), 1, "ratio 0.8 of params cannot be reached by narrowing ffn. The largest possible ratio is 0.7"),
        (0.3, ("kv",), 1, "narrowing kv. The largest possible ratio is 0.2"),
        (0.5, ("ffn",), 173, "FFN width 172 cannot be rounded to a multiple of 173"),
        (0.5, ("ffn",), 0, "multiple of 0"),
    ],
)
def test_what_cannot_be_reached(ratio: float, units: tuple[WidthUnit, ...], multiple_of: int, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target_of(ratio, units, multiple_of)
    assert fragment in str(caught.value)


def test_the_largest_possible_ratio_is_possible() -> None:
    with pytest.raises(ConfigError) as caught:
        target_of(0.99)
    named = float(str(caught.value).split("ratio is ")[1].split(";")[0])
    uniform_within(target_of(named))
    with pytest.raises(ConfigError):
        target_of(named + 0.001)


def test_a_cost_that_does_not_see_a_half_leaves_it_whole() -> None:
    target = require_target(space_of(), kv_byte_costs(64, DENSE), 0.5)
    assert target.space.units == ("kv",)
    assert uniform_within(target) == (LayerBudget(kv_groups=2, ffn_channels=172),) * 5


def test_uniform_balances_both_kinds() -> None:
    """At a quarter: 3 of 4 groups and 3/4 of the channels; with FFN alone 172 - 45,376/4/192 channels."""
    assert uniform_within(target_of(0.25))[0] == LayerBudget(kv_groups=3, ffn_channels=128)
    assert uniform_within(target_of(0.25, ("ffn",)))[0] == LayerBudget(kv_groups=4, ffn_channels=112)


def test_depth_increasing_weights() -> None:
    weights = layer_weights(5, 0.5)
    assert (weights[0], weights[-1]) == (0.5, 1.0)
    assert weights[2] == pytest.approx(0.5 + 0.5 * math.log(3) / math.log(5))
    assert layer_weights(1, 0.5) == [1.0]
    config = depth_increasing.ALLOCATOR.config
    found = depth_increasing.allocate(config, problem_of(target_of(0.3, ("ffn",))))
    removed = [172 - layer.ffn_channels for layer in found]
    assert all(before < after for before, after in pairwise(removed))
    assert removed[0] / removed[-1] == pytest.approx(0.5, abs=0.03)


def test_softmax_weights_by_hand() -> None:
    weights = softmax_weights([0.1, 0.3], 0.2)
    assert weights == pytest.approx([2 / (1 + math.exp(-1)), 2 / (1 + math.exp(1))])
    assert softmax_weights([0.1, 0.3, 0.2], 1e6) == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_silent_half_has_no_influence_and_loses_most() -> None:
    target = target_of(0.2)
    problem = problem_of(target, windows=True)
    problem.model.model.model.layers[2].mlp.down_proj.weight.mul_(1e-4)  # type: ignore[attr-defined]
    influences = half_influences(problem.model, problem.required_windows)
    assert influences[2, "ffn"] == pytest.approx(0, abs=1e-5) == pytest.approx(min(influences.values()), abs=1e-5)
    found = influence_softmax.allocate(influence_softmax.InfluenceSoftmaxConfig(temperature=0.02), problem)
    assert found[2].ffn_channels == min(layer.ffn_channels for layer in found) < 40


def test_the_threshold_takes_the_cheapest_units_wherever_they_are() -> None:
    """Layer 1 has cheap units, the others dear ones, in the raw scale."""
    target = target_of(0.1, ("ffn",))
    prices = {(index, "ffn"): [100.0 * (index != 1) + n for n in range(172)] for index in range(5)}
    found = global_threshold.cheapest_first(target, prices)  # type: ignore[arg-type]
    removed = [172 - layer.ffn_channels for layer in found]
    assert removed[1] == max(removed) and removed[0] < removed[1] - 90
    assert sum(removed) == math.ceil(0.1 * 5 * (128 + 4 * 3072 + 172 * 192) / 192)


def test_unit_prices_never_fall_along_the_order() -> None:
    ranking = Ranking(order=(2, 0, 1), costs=torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64))
    assert global_threshold.unit_prices(ranking, False) == [3.0, 3.0, 5.0]
    prices = global_threshold.unit_prices(ranking, True)
    assert prices == pytest.approx([0, 0, 2 / math.sqrt(8 / 3)])


def test_the_threshold_empties_no_half() -> None:
    problem = problem_of(target_of(0.7))
    found = global_threshold.allocate(global_threshold.ALLOCATOR.config, problem)
    assert min(min(layer.kv_groups, layer.ffn_channels) for layer in found) >= 1


def test_names_are_known() -> None:
    assert len({allocator.name for allocator in ALLOCATORS}) == len(ALLOCATORS) == 7
    with pytest.raises(ConfigError, match=r"allocation 'best' is unknown\. Known are uniform, depth_increasing"):
        allocator_named("best")
    with pytest.raises(ConfigError, match="needs calibration text"):
        influence_softmax.allocate(influence_softmax.ALLOCATOR.config, problem_of(target_of(0.2)))


def test_resizing_changes_one_half() -> None:
    allocation = space_of().dense_allocation
    assert resized(allocation, (3, "kv"), 2)[3] == replace(DENSE, kv_groups=2)
    assert resized(allocation, (3, "kv"), 2)[:3] == allocation[:3]
