"""Whole units under the alternation: planted structure is found, nothing is ever worse than one-shot second order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from coupled import gaussian
from safetensors.torch import load_file
from test_alternation import HIDDEN, KINDS, WIDTH, Tokens, chain_of, draw, matrices, tokens_of
from test_pipeline import made, request_for
from tiny_models import build_model, random_windows, save_checkpoint
from torch import Tensor

from artifacts.variant import Unit
from compressors.alternation import Affine, Alternation, Chain, Settings
from compressors.arch import ModelView
from compressors.auxiliary import Penalties
from compressors.methods import REGISTRY
from compressors.methods.sparsellm_structured import METHOD, WholeUnits
from compressors.plan import Allocation, LayerBudget
from compressors.resident import ResidentModel, prune_resident
from compressors.sequential import PruningJob
from compressors.streams import first_states

DENSE = LayerBudget(kv_groups=4, ffn_channels=48)
SETTINGS = [
    Settings(),
    Settings(epochs=3, penalties=Penalties(producers=0.1), damping=0.05),
    Settings(penalties=Penalties(producers=4.0, consumer=0.3, activation=2.0), input_damping=0.2),
]


def moved_text(dense: Chain, size: float = 0.3) -> Tokens:
    """What is wanted is the chain's own output and something that no FFN can know."""
    text = tokens_of()
    goal = dense.hidden(text.inputs) @ dense.consumer.weight.T + size * draw(len(text.inputs), HIDDEN, seed=50)
    return replace(text, wanted=lambda tokens: goal[tokens])


def real_error(chain: Chain, text: Tokens) -> float:
    assert text.wanted is not None
    said = chain.hidden(text.inputs) @ chain.consumer.weight.T
    return float((said - text.wanted(slice(None))).square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("removed", "width"), [(10, 1), (30, 1), (3, 4), (7, 4)])
def test_no_step_raises_the_objective(kind: str, settings: Settings, removed: int, width: int) -> None:
    told: list[float] = []
    dense = chain_of(kind)
    text, zeros = moved_text(dense), WholeUnits(removed=removed, width=width)
    found = Alternation(dense, text, zeros, settings, lambda _, value: told.append(value)).run()
    assert len(told) == 1 + 3 * (settings.epochs - 1)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(told))
    gone = (found.consumer.weight == 0).all(dim=0).view(-1, width)
    assert int(gone.all(dim=1).sum()) == removed and int(gone.sum()) == removed * width
    assert all(bool((each.weight != 0).all()) for each in found.producers)


def test_the_objective_that_is_told_begins_with_the_real_error() -> None:
    """Dense values miss nothing, so at the start all that is left is what the cut consumer leaves."""
    dense, told = chain_of("gated"), {}
    text, zeros = moved_text(dense), WholeUnits(removed=15, width=1)
    settings = Settings(epochs=1, penalties=Penalties(consumer=3.0), finish=False)
    start = Alternation(dense, text, zeros, settings, told.__setitem__).run()
    assert told["start"] == pytest.approx(3.0 * real_error(start, text), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("removed", [8, 20, 32])
def test_the_last_refit_never_raises_the_error_and_one_shot_is_never_beaten(
    kind: str, settings: Settings, removed: int
) -> None:
    dense = chain_of(kind)
    text, zeros = moved_text(dense), WholeUnits(removed=removed, width=1)
    once, alternated, finished = (
        real_error(Alternation(dense, text, zeros, each).run(), text)
        for each in (replace(settings, epochs=1), replace(settings, finish=False), settings)
    )
    assert finished <= alternated * (1 + 1e-12) and finished <= once * (1 + 1e-12)


def test_it_pays_where_units_are_missing() -> None:
    """A cut FFN that may still turn its producers is nearer than one whose last matrix alone is refitted."""
    dense = chain_of("gated")
    text, zeros = moved_text(dense, size=0.0), WholeUnits(removed=24, width=1)
    errors = [
        real_error(Alternation(dense, text, zeros, Settings(epochs=epochs)).run(), text) for epochs in (1, 2, 4, 8)
    ]
    assert all(after < before for before, after in pairwise(errors)) and errors[-1] < 0.9 * errors[0]


def planted(kind: str, count: int) -> Chain:
    """An FFN in which the last `count` channels repeat the first ones, and halves of them are written."""
    dense = chain_of(kind)
    affines = []
    for each in dense.producers:
        weight = each.weight.clone()
        weight[-count:] = weight[:count]
        affines.append(replace(each, weight=weight))
    consumer = dense.consumer.weight.clone()
    consumer[:, :count] *= 4
    consumer[:, -count:] = consumer[:, :count]
    return replace(dense, producers=tuple(affines), consumer=Affine(weight=consumer))


@pytest.mark.parametrize("kind", KINDS)
def test_planted_twins_go_without_loss(kind: str) -> None:
    count, dense = 9, planted(kind, 9)
    text = moved_text(dense, size=0.0)
    settings = Settings(damping=1e-10, input_damping=1e-10)
    found = Alternation(dense, text, WholeUnits(removed=count, width=1), settings).run()
    kept = set((found.consumer.weight != 0).any(dim=0).nonzero()[:, 0].tolist())
    for channel in range(count):
        assert len(kept & {channel, WIDTH - count + channel}) == 1
    assert real_error(found, text) < 1e-6 * float(draw(1, 1, seed=0).square() + 1)


def test_a_chain_without_producers_chooses_groups_and_refits_the_consumer() -> None:
    """Groups of four columns; the last repeats the first: one of them goes, and nothing is lost."""
    inputs, consumer = gaussian(500, 20), gaussian(7, 20, seed=1)
    inputs[:, 16:] = inputs[:, :4]
    goal = inputs @ consumer.T
    text = Tokens(inputs, wanted=lambda tokens: goal[tokens])
    chain = Chain(producers=(), consumer=Affine(weight=consumer), activation=None)
    found = Alternation(chain, text, WholeUnits(removed=1, width=4), Settings(damping=1e-10)).run()
    gone = (found.consumer.weight == 0).all(dim=0).view(5, 4).all(dim=1).nonzero()[:, 0].tolist()
    assert gone in ([0], [4]) and text.columns == {}
    assert float((inputs @ found.consumer.weight.T - goal).square().sum()) < 1e-8


def job(name: str, units: tuple[Unit, ...], allocation: Allocation, **changes: Any) -> PruningJob:
    asked: dict[str, Any] = {"repair": "ridge", "seed": 0} | changes
    return PruningJob(method=REGISTRY.named(name), units=units, allocation=allocation, **asked)


def states_behind(model: Any, index: int) -> Tensor:
    resident = ResidentModel(model)
    states = first_states(resident, random_windows(40))
    for each in range(index + 1):
        states.move_through(each, resident.load(each))
    return states.states


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("unit", "left"), [("ffn", 30), ("ffn", 12), ("kv", 2)])
def test_on_every_layer_alternated_one_shot_and_random_stand_in_this_order(index: int, unit: Unit, left: int) -> None:
    """The block's error on the calibration text at equal width."""
    cut = replace(DENSE, **{"ffn_channels" if unit == "ffn" else "kv_groups": left})
    allocation = tuple(cut if each == index else DENSE for each in range(3))
    dense, errors = states_behind(build_model(), index), []
    for name in ("sparsellm_structured", "obs", "random"):
        model = build_model()
        prune_resident(model, job(name, (unit,), allocation), random_windows(40))
        errors.append(float((states_behind(model, index) - dense).square().sum()))
    assert errors[0] <= errors[1] * (1 + 1e-5) <= errors[2] * (1 + 1e-5)
    assert unit == "kv" or errors[0] < errors[1]


def test_without_the_ridge_only_the_choice_is_left() -> None:
    pruned = []
    allocation = (LayerBudget(kv_groups=3, ffn_channels=30),) * 3
    for name in ("sparsellm_structured", "obs"):
        model = build_model()
        prune_resident(model, job(name, ("ffn", "kv"), allocation, repair="none"), random_windows())
        pruned.append(model.state_dict())
    assert all(torch.equal(pruned[0][key], pruned[1][key]) for key in pruned[1])


def test_producers_are_fitted_and_rounded_to_what_is_stored() -> None:
    model, dense = build_model(), build_model()
    allocation = (LayerBudget(kv_groups=4, ffn_channels=30),) * 3
    wanted = job("sparsellm_structured", ("ffn",), allocation, dtype=torch.bfloat16)
    plan = prune_resident(model, wanted, random_windows())
    for index, (layer, base) in enumerate(zip(ModelView(model).layers, ModelView(dense).layers, strict=True)):
        kept = list(plan.layers[index].ffn_channels)
        for linear, old in zip(matrices_of(layer.ffn), matrices_of(base.ffn), strict=True):
            assert torch.equal(linear.weight, linear.weight.bfloat16().float())
            assert linear.weight.shape != old.weight.shape
        assert not torch.allclose(layer.ffn.gate_proj.weight, base.ffn.gate_proj.weight[kept], atol=1e-3)
        assert torch.equal(layer.attention.o_proj.weight, base.attention.o_proj.weight)


def matrices_of(ffn: Any) -> list[Any]:
    return [ffn.gate_proj, ffn.up_proj, ffn.down_proj]


def test_nothing_asked_changes_no_bit(tmp_path: Path, text_file: Path) -> None:
    model = save_checkpoint(tmp_path / "dense", dtype=torch.bfloat16)
    made(request_for(model, "sparsellm_structured", 0.0, calibration=str(text_file), units=("ffn", "kv")))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "variant"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("map_states", [False, True])
def test_the_checkpoint_is_that_of_the_model_in_memory(map_states: bool, tmp_path: Path, text_file: Path) -> None:
    """Uniform leaves as stock; the method's settings and the repair are recorded."""
    model = save_checkpoint(tmp_path / "dense")
    request = request_for(model, "sparsellm_structured", 0.4, calibration=str(text_file), map_states=map_states)
    manifest = made(request)
    assert manifest.expressibility == "stock" and manifest.method.repair == "ridge"
    assert manifest.method.config == METHOD.resolved_config and manifest.layers[0].ffn_width == 29
    assert [w.shape for w in matrices(chain_of("gated"))] == [(WIDTH, HIDDEN)] * 2 + [(HIDDEN, WIDTH)]
