"""Depth methods find what can go, also where it shows only after something else has gone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import comb
from random import Random
from typing import Any

import pytest
import torch
from planted import FULL, cancelling_pair, depth_evidence, silence
from tiny_models import FAMILIES, build_model, random_windows

from artifacts.errors import ConfigError
from compressors.arch import WIDTH_UNITS, LayerView
from compressors.depth import DEPTH_UNITS, DepthEvidence, DepthUnit, Protection, Removal, without
from compressors.divergence import DivergenceBench
from compressors.methods import REGISTRY
from compressors.methods.block_influence import block_influence, influences
from compressors.methods.evolutionary_depth import Pool
from compressors.methods.greedy_depth import GreedyDepthConfig
from compressors.plan import Allocation, LayerBudget
from compressors.resident import ResidentModel
from compressors.streams import half_states, hidden_states

METHODS = ("block_influence", "greedy_kl", "evolutionary_depth")


def choose(name: str, evidence: DepthEvidence, **changes: Any) -> Allocation:
    method = REGISTRY.named(name)
    assert method.select_depth is not None
    with torch.inference_mode():
        return method.select_depth(replace(method.config, **changes), evidence)


def gone(allocation: Allocation) -> list[int]:
    return [index for index, budget in enumerate(allocation) if not budget.present]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("silent", [1, 2, 3])
def test_a_layer_that_writes_nothing_goes_first(name: str, silent: int) -> None:
    """Every position is tried: taking the state before for the state after shifts the answer by one."""
    model = build_model(num_hidden_layers=5)
    silence(model, silent, "kv", "ffn")
    assert gone(choose(name, depth_evidence(model, {"layers": 1}))) == [silent]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("kind", "half"), [("attention_sublayers", "kv"), ("ffn_sublayers", "ffn")])
def test_a_silent_half_goes_first(name: str, kind: DepthUnit, half: str) -> None:
    """The other half of another layer is silent too and must not be taken for it."""
    model = build_model("qwen3", num_hidden_layers=5)
    silence(model, 2, half)
    silence(model, 3, "ffn" if half == "kv" else "kv")
    expected = without((FULL,) * 5, [(kind, 2)])
    assert choose(name, depth_evidence(model, {kind: 1})) == expected
    assert expected[2].present and expected[2] != FULL


@pytest.mark.parametrize("name", METHODS)
def test_both_kinds_of_halves_together(name: str) -> None:
    model = build_model(num_hidden_layers=6)
    silence(model, 1, "kv")
    silence(model, 4, "kv", "ffn")
    removed: dict[DepthUnit, int] = {"attention_sublayers": 2, "ffn_sublayers": 1}
    left = choose(name, depth_evidence(model, removed))
    assert left[1] == LayerBudget(kv_groups=0, ffn_channels=48) and gone(left) == [4]
    assert [left[index] for index in (0, 2, 3, 5)] == [FULL] * 4


def test_half_states_frame_the_halves() -> None:
    """Every second one is a hidden state, and those are Transformers' own, in their order."""
    model, windows = build_model("mistral"), random_windows(3, 10)
    with torch.inference_mode():
        halves = list(half_states(ResidentModel(model), windows))
        whole = list(hidden_states(ResidentModel(model), windows))
        theirs = model(input_ids=windows, use_cache=False, output_hidden_states=True).hidden_states
        middle = (
            halves[0]
            + model.model.layers[0].self_attn(
                model.model.layers[0].input_layernorm(halves[0]), **ResidentModel(model).arguments(10)[0]
            )[0]
        )
    assert len(halves) == 7 and len(whole) == 4
    assert all(torch.equal(a, b) for a, b in zip(halves[::2], whole, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole[:-1], theirs[:-1], strict=True))
    assert torch.allclose(halves[1], middle, atol=1e-6)
    assert influences(iter(halves))[2] == block_influence(halves[2], halves[3])


def test_remeasuring_finds_two_layers_that_undo_each_other() -> None:
    """The pair turns the states more than any other layer, and after one has gone the other costs nothing to remove."""
    model = cancelling_pair(6, first=2, size=16.0, hidden=True)
    evidence = depth_evidence(model, {"layers": 2})
    with torch.inference_mode():
        turned = influences(evidence.hidden_states())
    assert min(turned[2], turned[3]) > 1.5 * max(turned[4], turned[5])
    assert not {2, 3} & set(gone(choose("block_influence", evidence))), turned
    assert gone(choose("greedy_kl", evidence)) == [2, 3]
    assert gone(choose("evolutionary_depth", evidence)) == [2, 3]


def test_a_divergence_measured_once_is_not_enough() -> None:
    """Layer 4 alone costs more than layer 3 and less than layer 2: only after 3 has gone is 2 the next."""
    model = cancelling_pair(6, first=2, size=24.0, hidden=True)
    for half in WIDTH_UNITS:
        consumer = LayerView(model.model.layers[4]).group(half).consumer
        consumer.weight.mul_(0.55)
        consumer.bias.mul_(0.55)
    evidence = depth_evidence(model, {"layers": 2})
    with torch.inference_mode():
        alone = evidence.bench().divergences([evidence.without([("layers", index)]) for index in range(1, 5)])
    assert alone[2] < alone[3] < alone[1] < alone[0]
    assert gone(choose("greedy_kl", evidence)) == [2, 3]


def test_evolution_finds_the_pair_where_neither_can_go_alone() -> None:
    """So large that the first removal of the pair is the worst of all: greedy choice never gets there."""
    model = cancelling_pair(6, first=2, size=100.0, hidden=False)
    evidence = depth_evidence(model, {"layers": 2})
    bench = evidence.bench()
    with torch.inference_mode():
        alone = bench.divergences([evidence.without([("layers", index)]) for index in range(1, 5)])
        (together,) = bench.divergences([evidence.without([("layers", 2), ("layers", 3)])])
    assert together == pytest.approx(0, abs=1e-5) and min(alone[1:3]) > 1.5 * max(alone[0], alone[3])
    assert gone(choose("greedy_kl", evidence)) != [2, 3]
    assert gone(choose("evolutionary_depth", evidence)) == [2, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_evolution_is_the_best_of_all_choices(family: str) -> None:
    """Small enough to try them all; greedy choice is never better."""
    model = build_model(family, num_hidden_layers=6)
    evidence = depth_evidence(model, {"layers": 2})
    pairs: list[list[Removal]] = [[("layers", a), ("layers", b)] for a in range(1, 5) for b in range(a + 1, 5)]
    candidates = [evidence.without(pair) for pair in pairs]
    assert len(candidates) == comb(4, 2)
    with torch.inference_mode():
        found = evidence.bench().divergences(candidates)
    best = candidates[min(range(len(found)), key=found.__getitem__)]
    assert choose("evolutionary_depth", evidence) == best
    greedy = choose("greedy_kl", evidence)
    assert found[candidates.index(greedy)] >= min(found)


def test_the_seed_decides_and_nothing_else() -> None:
    model = build_model(num_hidden_layers=8)
    short = {"generations": 1, "initial": 2, "offspring": 1}
    runs = [
        choose("evolutionary_depth", depth_evidence(model, {"layers": 3}, seed), **short) for seed in (1, 1, 2, 3, 4)
    ]
    assert runs[0] == runs[1] and len(set(runs)) > 1


def test_a_better_parent_is_never_lost() -> None:
    """More generations from the same start end no worse."""
    model = build_model(num_hidden_layers=8)
    bench = depth_evidence(model, {"layers": 3}).bench()
    ends = [
        choose("evolutionary_depth", depth_evidence(model, {"layers": 3}, 5), generations=count, initial=2, offspring=3)
        for count in (0, 1, 2, 4, 8)
    ]
    with torch.inference_mode():
        found = bench.divergences(ends)
    assert all(later <= earlier for earlier, later in pairwise(found)) and found[-1] < found[0]


def test_few_tokens_screen_and_all_tokens_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench is asked for 32 tokens of every challenger, then for more of the survivors and the parent."""
    asked: list[tuple[int, int | None]] = []
    judge = DivergenceBench.divergences

    def spy(bench: Any, candidates: Any, levels: Any = None, max_tokens: int | None = None) -> list[float]:
        asked.append((len(candidates), max_tokens))
        return judge(bench, candidates, levels, max_tokens)

    monkeypatch.setattr(DivergenceBench, "divergences", spy)
    evidence = depth_evidence(build_model(num_hidden_layers=8), {"layers": 3})
    screens = ((32, 3), (128, 1))
    choose("evolutionary_depth", evidence, initial=8, offspring=8, generations=1, screens=screens)
    assert [tokens for _, tokens in asked] == [32, 128, 32, 128]
    assert asked[1][0] == 3 and asked[3][0] <= 3, "three survivors; the parent and others are known already"


def test_protected_ends_stay_until_nothing_else_is_left() -> None:
    evidence = depth_evidence(build_model(num_hidden_layers=5), {"layers": 3})
    assert [index for _, index in evidence.removable("layers", Protection())] == [1, 2, 3]
    assert [index for _, index in evidence.removable("layers", Protection(first=2))] == [0, 1, 2, 3, 4]
    assert [index for _, index in evidence.removable("attention_sublayers", Protection())] == [0, 1, 2, 3, 4]
    for name in ("greedy_kl", "evolutionary_depth"):
        assert gone(choose(name, evidence)) == [1, 2, 3]
        small = depth_evidence(build_model(num_hidden_layers=2), {"layers": 1})
        assert len(gone(choose(name, small))) == 1


def test_what_is_absent_already_cannot_go_again() -> None:
    evidence = depth_evidence(build_model(num_hidden_layers=4), {"attention_sublayers": 1})
    base = without(evidence.base, [("attention_sublayers", 1), ("layers", 2)])
    shallow = replace(evidence, base=base)
    free = Protection(first=0, last=0)
    assert [i for _, i in shallow.removable("attention_sublayers", free)] == [0, 3]
    assert [i for _, i in shallow.removable("ffn_sublayers", free)] == [0, 1, 3]
    assert [i for _, i in shallow.removable("layers", free)] == [0, 1, 3]


@pytest.mark.parametrize("seed", range(5))
def test_mutations_swap_within_a_kind(seed: int) -> None:
    options: dict[DepthUnit, tuple[Removal, ...]] = {
        "attention_sublayers": tuple(("attention_sublayers", i) for i in range(6)),
        "ffn_sublayers": tuple(("ffn_sublayers", i) for i in range(4)),
    }
    pool, random = Pool(options, {"attention_sublayers": 2, "ffn_sublayers": 4}), Random(seed)
    parent = pool.draw(random)
    for _ in range(30):
        child = pool.mutate(parent, 3, random)
        assert sum(kind == "attention_sublayers" for kind, _ in child) == 2 and len(child) == 6
        assert len(parent - child) <= 3 and {r for r in child if r[0] == "ffn_sublayers"} == set(
            options["ffn_sublayers"]
        )


def test_every_depth_method_takes_every_kind() -> None:
    for name in METHODS:
        assert REGISTRY.named(name).units == DEPTH_UNITS
    assert GreedyDepthConfig().protection == Protection(first=1, last=1)


@pytest.mark.parametrize(
    ("place", "count", "expected"),
    [
        ("end", 1, [8]),
        ("end", 3, [6, 7, 8]),
        ("interleaved", 1, [5]),
        ("interleaved", 2, [3, 7]),
        ("interleaved", 4, [2, 4, 6, 8]),
    ],
)
def test_layer_chop_goes_by_place_alone(place: str, count: int, expected: list[int]) -> None:
    """Of ten layers the first and the last stay; no text is looked at."""
    evidence = replace(depth_evidence(build_model(num_hidden_layers=10), {"layers": count}), windows=None)
    assert gone(choose("layer_chop", evidence, place=place)) == expected


def test_layer_chop_takes_halves_as_well_and_never_one_twice() -> None:
    evidence = depth_evidence(build_model(num_hidden_layers=5), {"attention_sublayers": 2, "ffn_sublayers": 4})
    left = choose("layer_chop", evidence, place="interleaved")
    assert [budget.kv_groups > 0 for budget in left] == [True, False, True, False, True]
    assert [budget.ffn_channels > 0 for budget in left].count(False) == 4


def test_a_method_that_looks_says_when_there_is_no_text() -> None:
    evidence = replace(depth_evidence(build_model(), {"layers": 1}), windows=None)
    with pytest.raises(ConfigError, match="needs calibration text"):
        choose("block_influence", evidence)
