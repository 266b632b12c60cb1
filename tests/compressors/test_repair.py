"""Repairs by name, and the constant that stands in for removed columns."""

from __future__ import annotations

import pytest
import torch
from coupled import gaussian, linear, statistics_of
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.bias_repair import removed_mean
from compressors.compensation import refit_consumer
from compressors.repair import Repair, repair_consumer

BASE = gaussian(8, 32, seed=1)
KEPT = torch.tensor([channel for channel in range(32) if channel not in {4, 7, 20}])


def steady_inputs() -> Tensor:
    """Removed channels: 7 and 20 hardly move about 5 and -3, 4 is silent."""
    inputs = gaussian(2000, 32)
    inputs[:, 7] = 5 + 1e-3 * inputs[:, 7]
    inputs[:, 20] = -3 + 1e-3 * inputs[:, 20]
    inputs[:, 4] = 0
    return inputs


def repaired(repair: Repair, inputs: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """The consumer after the cut and the repair; wanted is its own uncut output without bias."""
    consumer = linear(BASE[:, KEPT], bias)
    repair_consumer(repair, consumer, BASE, statistics_of(inputs, inputs @ BASE.T), KEPT)
    return consumer


def relative_error(consumer: nn.Linear, inputs: Tensor, bias: Tensor | float = 0.0) -> float:
    wanted = inputs @ BASE.T + bias
    return float((consumer(inputs[:, KEPT]) - wanted).norm() / wanted.norm())


def test_a_constant_stands_in_for_steady_channels() -> None:
    inputs = steady_inputs()
    assert relative_error(repaired("none", inputs), inputs) > 0.4
    assert relative_error(repaired("bias", inputs), inputs) < 1e-3


def test_the_constant_is_the_removed_columns_mean_output() -> None:
    inputs = steady_inputs()
    mean = removed_mean(BASE, statistics_of(inputs, inputs @ BASE.T), KEPT)
    gone = torch.tensor([4, 7, 20])
    assert torch.allclose(mean, (inputs[:, gone] @ BASE[:, gone].T).mean(dim=0), atol=1e-12)


def test_the_bias_that_was_there_stays() -> None:
    inputs, bias = steady_inputs(), gaussian(8, seed=5)
    consumer = repaired("bias", inputs, bias)
    assert relative_error(consumer, inputs, bias) < 1e-3
    assert torch.allclose(consumer.bias - bias, repaired("bias", inputs).bias)


def test_nothing_is_done_under_the_name_none() -> None:
    consumer = repaired("none", steady_inputs())
    assert consumer.bias is None and torch.equal(consumer.weight, BASE[:, KEPT])


def test_bias_leaves_the_weights_and_ridge_leaves_the_bias() -> None:
    inputs, bias = gaussian(500, 32) + 0.5, gaussian(8, seed=5)
    with_bias, with_ridge = repaired("bias", inputs, bias), repaired("ridge", inputs, bias)
    assert torch.equal(with_bias.weight, BASE[:, KEPT]) and not torch.equal(with_bias.bias, bias)
    assert torch.equal(with_ridge.bias, bias) and not torch.equal(with_ridge.weight, BASE[:, KEPT])


def test_ridge_is_the_refit() -> None:
    inputs = gaussian(500, 32) @ gaussian(32, 32, seed=6)
    direct = linear(BASE[:, KEPT])
    refit_consumer(direct, statistics_of(inputs, inputs @ BASE.T), KEPT)
    assert torch.equal(repaired("ridge", inputs).weight, direct.weight)


def test_a_repaired_bias_has_the_weights_type() -> None:
    inputs = steady_inputs()
    consumer = linear(BASE[:, KEPT].bfloat16())
    repair_consumer("bias", consumer, BASE.bfloat16(), statistics_of(inputs, inputs @ BASE.T), KEPT)
    assert consumer.bias.dtype == torch.bfloat16 and not consumer.bias.requires_grad


@pytest.mark.parametrize("repair", ["ridge", "bias"])
def test_activations_that_are_not_finite_are_reported(repair: Repair) -> None:
    inputs = steady_inputs()
    inputs[5, 6] = float("inf")
    with pytest.raises(CompressionError, match="not finite"):
        repaired(repair, inputs)
