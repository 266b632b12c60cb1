"""Searches: planted redundancy is found, budgets hold at every candidate, seeds decide, tables decide."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from tiny_models import build_model, random_windows

from artifacts.errors import ConfigError
from artifacts.latency import LatencyEntry, LatencyTable
from compressors.allocation import allocator_named, dynamic_programme, evolutionary, global_threshold
from compressors.allocation.evolution import Mutation, Screening, evolve
from compressors.allocation.marginals import grid_around
from compressors.allocation.problem import Problem
from compressors.allocation.space import Target, WidthSpace, require_target, resized
from compressors.allocation.uniform import uniform_within
from compressors.arch import Half, LayerView, WidthUnit
from compressors.costs import CostModel, latency_costs, parameter_costs
from compressors.divergence import DivergenceBench
from compressors.level_building import build_levels
from compressors.levels import LevelLibrary
from compressors.methods import REGISTRY
from compressors.plan import Allocation, LayerBudget
from compressors.resident import ResidentModel, prune_resident
from compressors.sequential import PruningJob

DENSE = LayerBudget(kv_groups=4, ffn_channels=48)
QUICK = evolutionary.EvolutionaryConfig(
    rounds=2, generations=2, offspring=6, few_tokens=64, few_survivors=3, more_tokens=128, measured_tokens=128
)


def redundant_model() -> Any:
    """In layer 1 every FFN channel has a twin."""
    model = build_model()
    mlp = model.model.layers[1].mlp
    for linear in (mlp.gate_proj, mlp.up_proj):
        linear.weight[24:] = linear.weight[:24]
    return model


def costs_of(model: Any) -> CostModel:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.model.layers[0].named_parameters()}
    return parameter_costs(shapes, DENSE)


def problem_of(
    model: Any, ratio: float, units: tuple[WidthUnit, ...] = ("ffn",), costs: CostModel | None = None, seed: int = 0
) -> Problem:
    space = WidthSpace(layers=3, dense=DENSE, units=units, multiple_of=1)
    job = PruningJob(
        method=REGISTRY.named("obs"), units=units, allocation=space.dense_allocation, repair="ridge", seed=seed
    )
    target = require_target(space, costs or costs_of(model), ratio)
    return Problem(target=target, model=ResidentModel(model), job=job, windows=random_windows(16, 32))


@pytest.mark.parametrize(
    ("name", "config", "share"),
    [
        ("dynamic_programme", dynamic_programme.ALLOCATOR.config, 0.6),
        ("evolutionary", QUICK, 0.8),
        ("global_threshold", global_threshold.GlobalThresholdConfig(standardise=False), 0.8),
    ],
)
def test_redundancy_is_found_where_it_was_planted(name: str, config: Any, share: float) -> None:
    """A sixth of all channels is to go; the layer with twins can give half of its own for nothing."""
    problem = problem_of(redundant_model(), 0.026)
    removed = [48 - layer.ffn_channels for layer in allocator_named(name).allocate(config, problem)]
    assert removed[1] >= share * sum(removed) > 0
    assert 15 <= removed[1] <= 26


def divergence_of(problem: Problem, allocation: Allocation) -> float:
    library = build_levels(problem.model, problem.job, problem.windows, allocation, {})
    (found,) = DivergenceBench(problem.model, problem.required_windows).divergences([allocation], library)
    return found


def test_searches_are_never_worse_than_the_uniform_allocation() -> None:
    problem = problem_of(redundant_model(), 0.08, ("kv", "ffn"))
    uniform = divergence_of(problem, uniform_within(problem.target))
    found = evolutionary.allocate(QUICK, problem)
    assert divergence_of(problem, found) < 0.8 * uniform


@pytest.mark.parametrize(("units", "ratio"), [(("ffn",), 0.05), (("ffn",), 0.12), (("kv", "ffn"), 0.3)])
def test_every_candidate_holds_the_budget(
    units: tuple[WidthUnit, ...], ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base, proposal, every child and the answer; marginals are single changes and need not."""
    problem, seen = problem_of(build_model(), ratio, units), set[Allocation]()
    mutate = Mutation.__call__

    def noting(self: Mutation, parent: Allocation, random: Random) -> Allocation:
        child = mutate(self, parent, random)
        seen.update((parent, child))
        return child

    monkeypatch.setattr(Mutation, "__call__", noting)
    found = evolutionary.allocate(QUICK, problem)
    assert len(seen) > 5
    assert all(problem.target.holds(candidate) for candidate in {*seen, found})
    assert [half for half in problem.target.space.halves if problem.target.widened(found, half)] == []


def test_the_seed_decides() -> None:
    model = build_model()
    first, again = (evolutionary.allocate(QUICK, problem_of(model, 0.2, ("kv", "ffn"))) for _ in range(2))
    assert first == again
    mutate = Mutation(problem_of(model, 0.02).target, {(0, "ffn"): (20, 30, 40), (1, "ffn"): (20, 30, 40)}, 2)
    children = {mutate(_allocation(30, 30), Random(seed))[0].ffn_channels for seed in range(12)}
    assert len(children) > 1


def _allocation(*channels: int) -> Allocation:
    return tuple(LayerBudget(kv_groups=4, ffn_channels=count) for count in (*channels, 48))


def table_of(kv_s: float, ffn_s: float) -> LatencyTable:
    """Seconds of a whole half, falling to a tenth at the narrowest."""
    entries = (("kv", 1, kv_s / 10), ("kv", 4, kv_s), ("ffn", 1, ffn_s / 10), ("ffn", 48, ffn_s))
    return LatencyTable(
        model="tiny",
        engine="none",
        hardware="none",
        batch=1,
        context_tokens=16,
        fixed_s=0.1,
        entries=tuple(LatencyEntry(unit=unit, count=count, seconds=s) for unit, count, s in entries),  # type: ignore[arg-type]
    )


def test_only_the_table_changes_and_the_shape_follows() -> None:
    model, shapes = build_model(), {}
    for slow, table in (("kv", table_of(1.0, 0.01)), ("ffn", table_of(0.01, 1.0))):
        problem = problem_of(model, 0.3, ("kv", "ffn"), latency_costs(table, DENSE))
        found = dynamic_programme.allocate(dynamic_programme.DynamicProgrammeConfig(measured_tokens=256), problem)
        assert problem.target.holds(found)
        shapes[slow] = (sum(layer.kv_groups for layer in found), sum(layer.ffn_channels for layer in found))
    assert shapes["kv"][0] < shapes["ffn"][0] and shapes["kv"][1] > shapes["ffn"][1]


def repaired(library: LevelLibrary, half: Half, count: int) -> torch.Tensor:
    found = library.store.find(half, count)
    assert found is not None
    return found.weight


def test_a_level_at_the_base_is_what_the_final_pass_makes() -> None:
    model, windows = build_model(), random_windows(16, 32)
    problem = problem_of(model, 0.3, ("kv", "ffn"))
    base: Allocation = tuple(LayerBudget(kv_groups=n, ffn_channels=m) for n, m in ((2, 30), (4, 20), (3, 48)))
    library = build_levels(problem.model, problem.job, windows, base, {})
    (found,) = DivergenceBench(problem.model, windows).divergences([base], library)
    pruned = build_model()
    prune_resident(pruned, replace(problem.job, allocation=base), windows)
    for (index, unit), count in ((0, "kv"), 2), ((0, "ffn"), 30), ((1, "ffn"), 20), ((2, "kv"), 3):
        consumer = LayerView(pruned.model.layers[index]).group(unit).consumer.weight  # type: ignore[arg-type]
        assert torch.equal(repaired(library, (index, unit), count), consumer)  # type: ignore[arg-type]
    with torch.inference_mode():
        wanted, given = (m(input_ids=windows, use_cache=False).logits.log_softmax(-1) for m in (model, pruned))
    assert found == pytest.approx(float((wanted.exp() * (wanted - given)).sum(-1).double().mean()), rel=1e-4)


def test_levels_beside_the_base_are_made_on_its_stream() -> None:
    """Changing one half's width changes nothing in front of it, so its level is what a pass with that width makes."""
    problem = problem_of(build_model(), 0.1, ("ffn",))
    base: Allocation = _allocation(30, 20)
    library = build_levels(problem.model, problem.job, problem.windows, base, {(1, "ffn"): (12, 40)})
    assert {count for count in range(49) if library.store.find((1, "ffn"), count)} == {12, 20, 40}
    pruned = build_model()
    prune_resident(pruned, replace(problem.job, allocation=resized(base, (1, "ffn"), 12)), problem.windows)
    assert torch.allclose(repaired(library, (1, "ffn"), 12), pruned.model.layers[1].mlp.down_proj.weight, atol=1e-5)


def test_grids_surround_the_base() -> None:
    space = WidthSpace(layers=1, dense=DENSE, units=("kv", "ffn"), multiple_of=5)
    base = (LayerBudget(kv_groups=3, ffn_channels=20),)
    grid = grid_around(space, base, 0.25, 2)
    assert grid == {(0, "kv"): (1, 2, 3, 4), (0, "ffn"): (5, 10, 20, 30, 45, 48)}
    assert grid_around(space, base, 0.01, 1, absent=True)[0, "ffn"] == (0, 15, 20, 25, 48)


def test_evolution_finds_a_planted_optimum_and_never_gets_worse() -> None:
    """The error is the distance to a shape that the parent is far from."""
    optimum, start = (12, 44, 28), (28, 28, 28)
    space = WidthSpace(layers=3, dense=DENSE, units=("ffn",), multiple_of=4)
    costs = CostModel(kind="params", fixed=0, halves={"kv": (0,) * 5, "ffn": tuple(range(49))})
    target = Target(space=space, costs=costs, limit=84)
    grid = {(index, "ffn"): tuple(range(4, 49, 4)) for index in range(3)}

    def judge(candidates: Any, max_tokens: int | None) -> list[float]:
        assert all(target.holds(candidate) for candidate in candidates)
        return [sum(abs(layer.ffn_channels - n) for layer, n in zip(c, optimum, strict=True)) for c in candidates]

    def run(generations: int) -> float:
        parent = tuple(LayerBudget(kv_groups=4, ffn_channels=n) for n in start)
        rounds = (Screening(tokens=8, survivors=4), Screening(tokens=None, survivors=2))
        return evolve(
            [parent],
            Mutation(target, grid, 3),  # type: ignore[arg-type]
            judge,
            rounds,
            generations=generations,
            offspring=8,
            random=Random(0),
        )[1]

    distances = [run(generations) for generations in (0, 3, 30)]
    assert distances[0] == 32 and distances == sorted(distances, reverse=True) and distances[-1] == 0


def test_a_search_needs_text() -> None:
    with pytest.raises(ConfigError, match="needs calibration text"):
        evolutionary.allocate(QUICK, replace(problem_of(build_model(), 0.1), windows=None))
