"""The block-wise way back gives the gradients of one backward pass through the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from resident import ResidentModel
from tiny_models import FAMILIES, build_model, random_windows, save_checkpoint
from torch.nn import functional

from artifacts.progress import silent
from compressors.arch import LayerView, UnitGroup
from compressors.blocks import CheckpointModel
from compressors.gradients import gradient_rankings
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence


def gradient_sums(group: UnitGroup) -> torch.Tensor:
    """[units] a signed number that any wrong gradient would change."""
    total = group.per_unit(group.consumer.weight.grad.sum(dim=0))
    for producer in group.producers:
        rows = producer.linear.weight.grad.sum(dim=1)
        total = total + rows.view(group.count, producer.rows_per_unit).sum(dim=1)
    return total


def by_gradient(_config: object, evidence: WidthEvidence) -> Ranking:
    assert evidence.statistics is None and evidence.most_removed == evidence.group.count
    return rank_by_score(gradient_sums(evidence.group))


METHOD = Method(
    name="gradient", config=None, units=("ffn", "kv"), needs="gradients", paper="none", rank_width=by_gradient
)


def whole_model_gradients(model: Any, windows: torch.Tensor) -> None:
    model.requires_grad_(True)
    logits = model(input_ids=windows, use_cache=False).logits[:, :-1]
    functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_whole_model(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the windows go through in several pieces."""
    monkeypatch.setattr("compressors.streams._PIECE_TOKENS", 32)
    windows, reference = random_windows(6, 16), build_model(family)
    whole_model_gradients(reference, windows)
    model = CheckpointModel(save_checkpoint(tmp_path, family))
    with torch.no_grad():
        rankings = gradient_rankings(model, METHOD, ("kv", "ffn"), windows, 0, silent)
    assert set(rankings) == {(index, unit) for index in range(3) for unit in ("kv", "ffn")}
    for (index, unit), ranking in rankings.items():
        expected = gradient_sums(LayerView(reference.model.layers[index]).group(unit)).double()
        assert torch.allclose(ranking.costs, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_the_model_is_left_as_it_was() -> None:
    model = build_model()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with torch.no_grad():
        gradient_rankings(ResidentModel(model), METHOD, ("ffn",), random_windows(), 0, silent)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None, name
