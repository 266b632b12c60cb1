"""Scores against values worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
import torch
from planted import depth_evidence
from tiny_models import build_model, random_windows
from torch import Tensor, nn

from artifacts.errors import ConfigError
from compressors.arch import LayerView, Producer, UnitGroup
from compressors.methods import REGISTRY, block_influence, magnitude, random_units, wanda_sp
from compressors.plan import rank_by_score
from compressors.registry import WidthEvidence
from compressors.resident import ResidentModel
from compressors.statistics import ConsumerStatistics
from compressors.streams import hidden_states


def linear(rows: list[list[float]]) -> nn.Linear:
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    return layer


def channels() -> UnitGroup:
    """Three FFN channels over one hidden value; the consumer writes two."""
    gate, up = linear([[3.0], [0.0], [1.0]]), linear([[4.0], [1.0], [0.0]])
    return UnitGroup((Producer(gate, 1), Producer(up, 1)), linear([[0.0, 2.0, -1.0], [12.0, -2.0, 1.0]]), 1)


def heads() -> UnitGroup:
    """Two KV groups of two query heads of width 1: four consumer columns."""
    query, key = linear([[1.0], [1.0], [2.0], [2.0]]), linear([[1.0], [2.0]])
    return UnitGroup((Producer(query, 2), Producer(key, 1)), linear([[1.0, -1.0, 3.0, 0.0]]), 2)


def evidence(group: UnitGroup, inputs: Tensor | None = None, seed: int = 0) -> WidthEvidence:
    """`inputs` [tokens, columns] reach the consumer."""
    statistics = None
    if inputs is not None:
        statistics = ConsumerStatistics(inputs.shape[1], 1, full=False, device=inputs.device)
        statistics.add(inputs)
    return WidthEvidence(group=group, statistics=statistics, most_removed=group.count, random=Random(seed))


def test_magnitude_is_the_norm_of_what_a_unit_writes_with() -> None:
    assert magnitude.unit_magnitudes(channels(), 2, "consumer").tolist() == pytest.approx([12.0, 8**0.5, 2**0.5])
    assert magnitude.unit_magnitudes(channels(), 1, "consumer").tolist() == pytest.approx([12.0, 4.0, 2.0])
    assert magnitude.unit_magnitudes(heads(), 2, "consumer").tolist() == pytest.approx([2**0.5, 3.0])


def test_magnitude_can_count_all_coupled_weights() -> None:
    assert magnitude.unit_magnitudes(channels(), 2, "coupled").tolist() == pytest.approx([13.0, 3.0, math.sqrt(3.0)])
    assert magnitude.unit_magnitudes(channels(), 1, "coupled").tolist() == pytest.approx([19.0, 5.0, 3.0])


def test_coupled_magnitude_of_a_kv_group_counts_its_query_rows_key_row_and_output_columns() -> None:
    wanted = [math.sqrt(5.0), math.sqrt(21.0)]
    assert magnitude.unit_magnitudes(heads(), 2, "coupled").tolist() == pytest.approx(wanted)


def test_magnitude_of_the_consumer_is_wanda_without_activations() -> None:
    unit_norm = magnitude.rank(magnitude.MagnitudeConfig(matrices="consumer"), evidence(channels())).order
    assert unit_norm == wanda_sp.METHOD.rank_width(wanda_sp.METHOD.config, evidence(channels(), torch.eye(3))).order


def test_wanda_weighs_each_consumer_column_by_its_input() -> None:
    norms = torch.tensor([1.0, 10.0, 0.5])
    assert wanda_sp.unit_scores(channels(), norms).tolist() == pytest.approx([12.0, 40.0, 1.0])
    assert wanda_sp.rank(wanda_sp.WandaSpConfig(), evidence(channels(), norms[None])).order == (2, 0, 1)


def test_wanda_of_a_kv_group_sums_its_columns() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0, 100.0])
    assert wanda_sp.unit_scores(heads(), norms).tolist() == pytest.approx([3.0, 9.0])


def test_wanda_does_not_change_when_scale_moves_from_weight_to_input() -> None:
    group, norms = channels(), torch.tensor([1.0, 10.0, 0.5])
    before = wanda_sp.unit_scores(group, norms)
    group.consumer.weight[:, 1] *= 0.1
    norms[1] *= 10
    assert torch.allclose(wanda_sp.unit_scores(group, norms), before)


def test_wanda_without_calibration_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs calibration text"):
        wanda_sp.rank(wanda_sp.WandaSpConfig(), evidence(channels()))


def test_random_depends_on_the_seed_alone_and_visits_every_channel() -> None:
    group = LayerView(build_model().model.layers[0]).group("ffn")
    config = random_units.RandomConfig()
    first, again = (random_units.rank(config, evidence(group, seed=3)).kept(20) for _ in range(2))
    assert first == again == tuple(sorted(set(first))) and len(first) == 20
    seen = {unit for seed in range(40) for unit in random_units.rank(config, evidence(group, seed=seed)).kept(20)}
    assert seen == set(range(48))


def test_the_highest_scores_stay_in_order_and_of_equals_the_earlier() -> None:
    assert rank_by_score([1.0, 3.0, 2.0, 3.0]).kept(2) == (1, 3)
    assert rank_by_score([5.0, 5.0, 5.0]).kept(2) == (0, 1)
    assert rank_by_score(torch.tensor([0.0, -1.0, -2.0])).kept(3) == (0, 1, 2)


def test_block_influence_of_known_angles() -> None:
    along = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    assert block_influence.block_influence(along, 3 * along) == pytest.approx(0.0, abs=1e-6)
    assert block_influence.block_influence(along, -along) == pytest.approx(2.0)
    turned = torch.tensor([[[0.0, 5.0], [1.0, 1.0]]])  # 90 and 45 degrees
    assert block_influence.block_influence(along, turned) == pytest.approx(1 - math.sqrt(0.5) / 2)


def test_block_influence_keeps_the_layers_that_turn_most() -> None:
    """Layer 1 is made to write nothing: its influence is 0 and it goes first."""
    model = build_model()
    for writer in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
        writer.weight.zero_()
    with torch.inference_mode():
        states = [state.clone() for state in hidden_states(ResidentModel(model), random_windows())]
    influence = [block_influence.block_influence(a, b) for a, b in pairwise(states)]
    assert influence[1] == pytest.approx(0.0, abs=1e-6) and min(influence[0], influence[2]) > 0.01
    removed = {"layers": 1}
    assert block_influence.influences(iter(states)) == influence
    left = block_influence.METHOD.select_depth(block_influence.METHOD.config, depth_evidence(model, removed))
    assert [budget.present for budget in left] == [True, False, True]


def test_every_method_is_found_by_name_and_by_config() -> None:
    assert {"random", "magnitude", "wanda_sp", "flap", "taylor", "obs", "modegpt_mlp", "prunenet"} < set(REGISTRY.names)
    assert {
        "block_influence",
        "greedy_kl",
        "evolutionary_depth",
        "layer_chop",
        "hidden_slice",
        "policy_gradient",
    } < set(REGISTRY.names)
    assert {"weight_magnitude", "wanda", "sparsegpt", "sparsellm"} < set(REGISTRY.names)
    for name in REGISTRY.names:
        method = REGISTRY.named(name)
        assert REGISTRY.of(method.config) is method
        ways = [method.rank_width, method.select_depth, method.find_basis, method.mask_matrices]
        assert ways.count(None) == (4 if method.learns else 3)
        assert method.paper and method.units
    assert REGISTRY.named("magnitude").resolved_config == {"order": 2, "matrices": "coupled"}


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'slice' is unknown\. Known methods are random, magnitude"):
        REGISTRY.named("slice")
