"""FLAP, Taylor, MoDeGPT and PruneNet on planted structure, each against its plain definition."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from coupled import evidence_of, ffn_group, gaussian, kv_group, linear
from tiny_models import build_model, random_windows
from torch import Tensor

from artifacts.errors import CompressionError, ConfigError
from compressors.arch import LayerView, ModelView, UnitGroup, WidthUnit
from compressors.methods import REGISTRY, flap, modegpt_mlp, prunenet, taylor, wanda_sp
from compressors.standardise import standardised


def steady_channel() -> tuple[UnitGroup, Tensor]:
    """Channel 7 of 32 has mean 5 and deviation 1e-3; all others have mean 0 and deviation 1."""
    inputs = gaussian(2000, 32)
    inputs[:, 7] = 5 + 1e-3 * inputs[:, 7]
    return ffn_group(gaussian(8, 32, seed=1)), inputs


def test_flap_lets_a_steady_channel_go_first_that_wanda_keeps_longest() -> None:
    group, inputs = steady_channel()
    evidence = evidence_of(group, inputs)
    assert flap.rank(flap.FlapConfig(), evidence).order[0] == 7
    assert wanda_sp.rank(wanda_sp.WandaSpConfig(), evidence).order[-1] == 7


def test_flap_is_the_error_left_after_replacing_an_input_by_its_mean() -> None:
    group, inputs = steady_channel()
    costs = flap.rank(flap.FlapConfig(), evidence_of(group, inputs)).costs
    for channel in (0, 7, 31):
        flattened = inputs.clone()
        flattened[:, channel] = inputs[:, channel].mean()
        error = ((inputs - flattened) @ group.consumer.weight.T).square().sum(dim=1).mean()
        assert float(costs[channel]) == pytest.approx(float(error), rel=1e-6)


def test_flap_of_a_kv_group_sums_its_columns() -> None:
    inputs, consumer = gaussian(500, 12), gaussian(5, 12, seed=1)
    by_column = flap.rank(flap.FlapConfig(), evidence_of(ffn_group(consumer), inputs)).costs
    by_group = flap.rank(flap.FlapConfig(), evidence_of(kv_group(consumer, 4), inputs)).costs
    assert torch.allclose(by_group, by_column.view(3, 4).sum(dim=1))


def test_standardised_costs_forget_a_layer_s_scale() -> None:
    costs = gaussian(200).exp()
    scores = standardised(costs)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-12)
    assert float(scores.square().mean()) == pytest.approx(1)
    assert torch.allclose(standardised(1e6 * costs + 3), scores)
    assert torch.equal(scores.argsort(), costs.argsort())
    assert torch.equal(standardised(torch.full((5,), 2.0)), torch.zeros(5))


@pytest.mark.parametrize("method", ["flap", "wanda_sp", "modegpt_mlp"])
def test_activations_that_are_not_finite_are_reported(method: str) -> None:
    group, inputs = steady_channel()
    inputs[3, 4] = float("nan")
    chosen = REGISTRY.named(method)
    assert chosen.rank_width is not None
    with pytest.raises(CompressionError, match="not finite"):
        chosen.rank_width(chosen.config, evidence_of(group, inputs))


@pytest.mark.parametrize("method", ["flap", "obs", "modegpt_mlp"])
def test_without_calibration_is_refused(method: str) -> None:
    group, inputs = steady_channel()
    evidence = evidence_of(group, inputs)
    blind = type(evidence)(group=group, statistics=None, most_removed=4, random=evidence.random)
    chosen = REGISTRY.named(method)
    assert chosen.rank_width is not None
    with pytest.raises(ConfigError, match="needs calibration text"):
        chosen.rank_width(chosen.config, blind)


def model_with_gradients(family: str = "llama-biased") -> Any:
    model = build_model(family).double().requires_grad_(True)
    loss_of(model).backward()
    return model


def loss_of(model: Any) -> Tensor:
    windows = random_windows(4, 12)
    logits = model(input_ids=windows, use_cache=False).logits[:, :-1].flatten(0, 1).double()
    return torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())


def parts_of_unit(group: UnitGroup, unit: int) -> list[Tensor]:
    """Views of everything that belongs to one unit: producer rows, their biases, consumer columns."""
    parts = []
    for producer in group.producers:
        rows = slice(unit * producer.rows_per_unit, (unit + 1) * producer.rows_per_unit)
        parts += [t[rows] for t in (producer.linear.weight, producer.linear.bias) if t is not None]
    width = group.columns_per_unit
    return [*parts, group.consumer.weight[:, unit * width : (unit + 1) * width]]


@pytest.mark.parametrize("unit", ["ffn", "kv"])
@pytest.mark.parametrize("family", ["llama-biased", "qwen2"])
def test_taylor_is_the_derivative_along_each_part_of_the_group(family: str, unit: WidthUnit) -> None:
    """abs_of_sum is, part by part, the change of the loss when that part is scaled: central differences of the loss."""
    model = model_with_gradients(family)
    group = ModelView(model).layers[1].group(unit)
    scores = taylor.saliences(group, "abs_of_sum")
    step = 1e-2  # normalisation layers compute in float32
    with torch.no_grad():
        for number in (0, group.count - 1):
            expected = 0.0
            for part in parts_of_unit(group, number):
                original, losses = part.clone(), []
                for factor in (1 + step, 1 - step):
                    part.copy_(original * factor)
                    losses.append(float(loss_of(model)))
                part.copy_(original)
                expected += abs(losses[0] - losses[1]) / (2 * step)
            assert float(scores[number]) == pytest.approx(expected, rel=0.01)


def test_taylor_adds_every_coupled_element() -> None:
    group = ModelView(model_with_gradients()).layers[0].group("kv")
    scores = taylor.saliences(group, "sum_of_abs")
    for unit in range(group.count):
        with torch.no_grad():
            copies = [(part.clone(), grad) for part, grad in _parts_and_gradients(group, unit)]
        assert float(scores[unit]) == pytest.approx(sum(float((p * g).abs().sum()) for p, g in copies))


def _parts_and_gradients(group: UnitGroup, unit: int) -> list[tuple[Tensor, Tensor]]:
    gradients = UnitGroup(
        tuple(type(p)(_gradient_of(p.linear), p.rows_per_unit) for p in group.producers),
        _gradient_of(group.consumer),
        group.columns_per_unit,
    )
    return list(zip(parts_of_unit(group, unit), parts_of_unit(gradients, unit), strict=True))


def _gradient_of(layer: torch.nn.Linear) -> torch.nn.Linear:
    assert layer.weight.grad is not None
    return linear(layer.weight.grad, None if layer.bias is None else layer.bias.grad)


@pytest.mark.parametrize("reduction", ["sum_of_abs", "abs_of_sum"])
def test_taylor_of_a_unit_nobody_reads_is_nothing(reduction: Literal["sum_of_abs", "abs_of_sum"]) -> None:
    """With its consumer column zero a channel's producers have no gradient, and the column itself has no weight."""
    model = build_model("llama-biased").double().requires_grad_(True)
    group = LayerView(model.model.layers[2]).group("ffn")
    with torch.no_grad():
        group.consumer.weight[:, 9] = 0
    loss_of(model).backward()
    scores = taylor.saliences(group, reduction)
    assert float(scores[9]) == 0.0
    assert int((scores == 0).sum()) == 1
    assert taylor.rank(taylor.TaylorConfig(), evidence_of(group, gaussian(10, 48))).order[0] == 9


def test_taylor_without_or_with_broken_gradients_is_refused() -> None:
    group = ModelView(build_model()).layers[0].group("ffn")
    with pytest.raises(CompressionError, match="backward pass"):
        taylor.saliences(group, "sum_of_abs")
    group = ModelView(model_with_gradients("llama")).layers[0].group("ffn")
    gradient = group.producers[1].linear.weight.grad
    assert gradient is not None
    gradient[3, 3] = float("inf")
    with pytest.raises(CompressionError, match="not finite"):
        taylor.saliences(group, "sum_of_abs")


def test_leverage_by_its_definition() -> None:
    gram = gaussian(300, 20).T @ gaussian(300, 20)
    ridge = 0.05 * gram.diagonal().mean() * torch.eye(20)
    expected = (gram @ torch.linalg.inv(gram + ridge)).diagonal()
    assert torch.allclose(modegpt_mlp.leverages(gram, 0.05), expected, atol=1e-12)


def test_leverage_is_low_for_what_others_can_say() -> None:
    """Channels 2, 5 and 11 span a plane; channel 8 is silent. Nothing else is superfluous."""
    inputs = gaussian(1000, 16)
    inputs[:, 11] = inputs[:, 2] + inputs[:, 5]
    inputs[:, 8] = 0
    ranking = modegpt_mlp.rank(modegpt_mlp.ModegptMlpConfig(), evidence_of(ffn_group(gaussian(4, 16, seed=1)), inputs))
    assert ranking.order[0] == 8 and set(ranking.order[1:4]) == {2, 5, 11}
    assert float(ranking.costs[8]) == 0.0 and float(ranking.costs.max()) < 1


def test_leverage_does_not_look_at_the_consumer() -> None:
    inputs = gaussian(500, 12)
    first, second = (
        modegpt_mlp.rank(modegpt_mlp.ModegptMlpConfig(), evidence_of(ffn_group(gaussian(4, 12, seed=s)), inputs))
        for s in (1, 2)
    )
    assert first.order == second.order


def exact_shift(matrix: Tensor, row: int) -> float:
    """The mean share of the way to the next singular value, by decomposing the matrix without the row."""
    values = torch.linalg.svdvals(matrix)
    kept = torch.arange(len(matrix)) != row
    moved = values - torch.linalg.svdvals(matrix[kept])
    gaps = values - torch.cat((values[1:], torch.zeros(1, dtype=values.dtype)))
    return float((moved / gaps).mean())


def test_prunenet_ranks_as_removing_each_row_does() -> None:
    """Rank correlation above 0.9 with one decomposition per row, on rows of very different weight."""
    matrix = gaussian(60, 12) * torch.rand(60, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = torch.tensor([exact_shift(matrix, row) for row in range(60)])
    estimate = prunenet.spectral_shifts(matrix)
    ranks = torch.stack([values.argsort().argsort().double() for values in (exact, estimate)])
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.9
    assert bool(((exact > -1e-9) & (exact < 1 + 1e-9)).all()), "interlacing bounds the share"


def test_the_distance_of_a_single_row_cannot_rank() -> None:
    """Kolmogorov-Smirnov between the spectra before and after is one step for every row."""
    matrix = gaussian(20, 6)
    values = torch.linalg.svdvals(matrix)
    for row in range(20):
        after = torch.linalg.svdvals(matrix[torch.arange(20) != row])
        points = torch.cat((values, after))
        steps = [((v[None] <= points[:, None] + 1e-12).double().mean(dim=1)) for v in (values, after)]
        assert float((steps[0] - steps[1]).abs().max()) == pytest.approx(1 / 6)


def test_prunenet_lets_rows_go_that_carry_no_direction_of_their_own() -> None:
    """Rows 3 and 8 of the producers are nearly zero, row 5 is the only one in its direction."""
    group = ffn_group(gaussian(4, 12, seed=1))
    for producer in group.producers:
        weight = producer.linear.weight
        weight[:, 7] = 0
        weight[5] = 0
        weight[5, 7] = 6
        weight[[3, 8]] *= 1e-4
    ranking = prunenet.rank(prunenet.PruneNetConfig(), evidence_of(group, gaussian(10, 12)))
    assert set(ranking.order[:2]) == {3, 8} and ranking.order[-1] == 5


def test_prunenet_looks_at_the_gate_alone() -> None:
    group = ffn_group(gaussian(4, 20, seed=1))
    before = prunenet.rank(prunenet.PruneNetConfig(), evidence_of(group, gaussian(10, 20))).costs
    assert torch.allclose(before, prunenet.spectral_shifts(group.producers[0].linear.weight))
    group.producers[1].linear.weight[3] *= 100
    assert torch.equal(prunenet.rank(prunenet.PruneNetConfig(), evidence_of(group, gaussian(10, 20))).costs, before)
