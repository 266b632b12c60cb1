"""Blocks that are pruned together: where one at a time is provably worse, and never worse anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from coupled import gaussian
from test_pipeline import made, request_for
from tiny_models import build_model, random_windows, save_checkpoint
from torch import Tensor

import compressors.together as together_module
from artifacts.errors import ConfigError
from artifacts.progress import silent
from artifacts.variant import Unit
from compressors.arch import LayerView, ModelView
from compressors.blocks import CheckpointModel
from compressors.methods import REGISTRY
from compressors.plan import Allocation, LayerBudget, LayerPlan
from compressors.resident import Collector, ResidentModel, prune_resident
from compressors.sequential import PruningJob
from compressors.streams import first_states
from compressors.together import ROUNDS, Rounds, lowered, prune_blocks

DENSE = LayerBudget(kv_groups=4, ffn_channels=48)
CUT = LayerBudget(kv_groups=3, ffn_channels=24)
ABSENT = LayerBudget(kv_groups=0, ffn_channels=0)
WINDOWS = random_windows(24, 16)


def job(allocation: Allocation, together: int, method: str = "obs", units: tuple[Unit, ...] = ("ffn",)) -> PruningJob:
    return PruningJob(
        method=REGISTRY.named(method), units=units, allocation=allocation, repair="ridge", seed=0, together=together
    )


def states_behind(model: Any, blocks: int) -> Tensor:
    resident = ResidentModel(model)
    states = first_states(resident, WINDOWS)
    for index in range(blocks):
        states.move_through(index, resident.load(index))
    return states.states


def distance(model: Any, dense: Any, blocks: int) -> float:
    return float((states_behind(model, blocks) - states_behind(dense, blocks)).double().square().sum())


def pruned(build: Any, wanted: PruningJob) -> Any:
    model = build()
    prune_resident(model, wanted, WINDOWS)
    return model


def cancelling() -> Any:
    """Two blocks without attention: what the first FFN writes, where no norm looks, the second takes away again."""
    model = build_model(num_hidden_layers=2, tie_word_embeddings=False)
    first, second = (LayerView(module) for module in model.model.layers)
    for layer in (first, second):
        layer.attention.o_proj.weight.zero_()
        layer.norm("ffn").weight[:16] = 0.0
    first.ffn.down_proj.weight[16:] = 0.0
    first.ffn.down_proj.weight.mul_(0.05)
    for name in ("gate_proj", "up_proj"):
        getattr(second.ffn, name).weight.copy_(getattr(first.ffn, name).weight)
    second.norm("ffn").weight.copy_(first.norm("ffn").weight)
    second.ffn.down_proj.weight.copy_(-first.ffn.down_proj.weight)
    return model


def test_two_blocks_that_cancel_are_pruned_together() -> None:
    """The second can keep one channel of 48, so it cannot take away any more what the first still adds.

    Alone the first is refitted to go on adding it, for nothing else is wanted of it; together it stops.
    """
    allocation = (replace(DENSE, ffn_channels=47), replace(DENSE, ffn_channels=1))
    errors = [distance(pruned(cancelling, job(allocation, together)), cancelling(), 2) for together in (1, 2)]
    added = states_behind(cancelling(), 1) - states_behind(cancelling(), 0)
    assert errors[0] > 0.5 * float(added.square().sum()), "one at a time nearly all of it is left"
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize(("method", "together"), [("obs", 3), ("sparsellm_structured", 2), ("magnitude", 2)])
def test_a_group_ends_no_further_from_dense_than_its_blocks_one_at_a_time(method: str, together: int) -> None:
    wanted = job((CUT,) * 3, together, method, ("ffn", "kv"))
    alone = pruned(build_model, replace(wanted, together=1))
    errors = [distance(model, build_model(), together) for model in (pruned(build_model, wanted), alone)]
    assert errors[0] <= errors[1] * (1 + 1e-6)


def test_a_round_that_makes_it_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = job((CUT,) * 3, 3)
    alone = pruned(build_model, replace(wanted, together=1)).state_dict()
    monkeypatch.setattr(together_module, "lowered", lambda given, *_: given + 10 * given.roll(1, 0))
    together = pruned(build_model, wanted).state_dict()
    assert all(torch.equal(together[name], alone[name]) for name in alone)


@pytest.mark.usefixtures("one_round")
def test_more_blocks_than_there_are_go_together_as_all_do() -> None:
    logits = [pruned(build_model, job((CUT,) * 3, together)).state_dict() for together in (3, 8)]
    assert all(torch.equal(logits[0][name], logits[1][name]) for name in logits[0])


def test_absent_blocks_and_halves_are_passed_by() -> None:
    allocation = (CUT, ABSENT, replace(CUT, ffn_channels=0))
    model = build_model()
    plan = prune_resident(model, job(allocation, 3, units=("ffn", "kv")), WINDOWS)
    assert plan.kept_layers == (0, 2)
    assert [(layer.kv_heads, layer.ffn_width) for layer in ModelView(model).layers] == [(3, 24), (3, 0)]


def linear(matrix: Tensor) -> Any:
    return lambda states: states @ matrix.T


@pytest.mark.parametrize("reach", [0.1, 1.0, 5.0])
def test_a_block_that_passes_its_input_on_has_a_closed_form(reach: float) -> None:
    """Then t is the mean of what is given and what is aimed at, with the weights reach and 1, after one step."""
    given, goal = gaussian(5, 6, 7), gaussian(5, 6, 7, seed=1)
    moved = lowered(given, goal, lambda states: states, Rounds(steps=1, reach=reach))
    assert torch.allclose(moved, (reach * given + goal) / (1 + reach))


@pytest.mark.parametrize("size", [0.3, 3.0, 30.0])
def test_no_window_s_cost_rises(size: float) -> None:
    """Even where a step that suits the identity overshoots by far; and more steps leave less."""
    given, goal, block = gaussian(5, 6, 7), gaussian(5, 6, 7, seed=1), linear(size * gaussian(7, 7, seed=2))

    def costs(states: Tensor) -> Tensor:
        return (ROUNDS.reach * (states - given).square() + (goal - block(states)).square()).sum(dim=(1, 2))

    few, many = (costs(lowered(given, goal, block, Rounds(steps=steps, reach=ROUNDS.reach))) for steps in (2, 12))
    assert bool((few <= costs(given)).all()) and bool((many <= few).all())
    assert float(many.sum()) < float(costs(given).sum())


class Dying(Collector):
    """A sink that ends the run when it gets a block for the second time of `index`."""

    def finished(self, index: int) -> Any:
        return (self.layers[index], self.plans[index]) if index in self.layers else None

    def __init__(self, last: int) -> None:
        super().__init__()
        self.plans: dict[int, LayerPlan] = {}
        self.last = last

    def keep(self, index: int, layer: LayerView, plan: LayerPlan) -> None:
        if index > self.last:
            raise KeyboardInterrupt
        super().keep(index, layer, plan)
        self.plans[index] = plan


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together_module, "ROUNDS", Rounds(most=1))


@pytest.mark.usefixtures("one_round")
@pytest.mark.parametrize("last", [0, 2])
def test_an_interrupted_run_goes_on_with_the_same_bits(last: int) -> None:
    """Also where a group was handed over in part only."""
    model, wanted, whole, sink = build_model(num_hidden_layers=4), job((CUT,) * 4, 2), Collector(), Dying(last)
    with torch.no_grad():
        expected = prune_blocks(ResidentModel(model), wanted, WINDOWS, whole, silent)
        with pytest.raises(KeyboardInterrupt):
            prune_blocks(ResidentModel(model), wanted, WINDOWS, sink, silent)
        sink.last = 9
        assert prune_blocks(ResidentModel(model), wanted, WINDOWS, sink, silent) == expected
    for index, layer in whole.layers.items():
        again = dict(sink.layers[index].module.named_parameters())
        assert all(torch.equal(again[name], value) for name, value in layer.module.named_parameters())


@pytest.mark.usefixtures("one_round")
def test_files_take_the_streams_and_change_no_bit(tmp_path: Path) -> None:
    folder, sinks = save_checkpoint(tmp_path / "dense"), (Collector(), Collector())
    for sink, states in zip(sinks, (None, tmp_path), strict=True):
        with torch.no_grad():
            prune_blocks(CheckpointModel(folder), job((CUT,) * 3, 3), WINDOWS, sink, silent, states)
    assert len(list(tmp_path.glob("*.states"))) == 2 + 2 + 3 * 2 + 2
    for index in range(3):
        first, second = (dict(sink.layers[index].module.named_parameters()) for sink in sinks)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_manifest_says_how_many(tmp_path: Path, text_file: Path) -> None:
    request = request_for(save_checkpoint(tmp_path / "dense"), "obs", 0.4, calibration=str(text_file), together=2)
    assert made(request).method.together == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"together": 0}, "is 0, which is no number of blocks. Give 1 or more"),
        ({"together": 2, "repair": "none"}, "with repair none prunes each block by itself. Leave --together out"),
        ({"together": 2, "method": "block_influence", "units": ("layers",)}, "Leave --together out"),
    ],
)
def test_what_cannot_be_pruned_together_is_refused(
    changes: dict[str, Any], sentence: str, model_folder: Path, text_file: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(replace(request_for(model_folder, "obs", 0.4, calibration=str(text_file)), **changes))
