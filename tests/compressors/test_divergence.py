"""The KL of a candidate is that of the model it stands for, however many are judged together."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, random_windows

from compressors.arch import LayerView, WidthUnit
from compressors.divergence import DivergenceBench
from compressors.levels import LevelLibrary, with_own_half, without_half
from compressors.plan import Allocation, LayerBudget, rank_by_score
from compressors.resident import ResidentModel
from compressors.surgery import keep_units

FULL = LayerBudget(kv_groups=4, ffn_channels=48)
NO_ATTENTION = LayerBudget(kv_groups=0, ffn_channels=48)
NO_FFN = LayerBudget(kv_groups=4, ffn_channels=0)
GONE = LayerBudget(kv_groups=0, ffn_channels=0)
NARROW = LayerBudget(kv_groups=3, ffn_channels=20)


def kl(dense: Any, other: Any, windows: torch.Tensor) -> float:
    """Straight from two whole models."""
    with torch.inference_mode():
        wanted, given = (m(input_ids=windows, use_cache=False).logits.log_softmax(-1) for m in (dense, other))
    return float((wanted.exp() * (wanted - given)).sum(-1).double().mean())


def silence(model: Any, candidate: Allocation) -> Any:
    """The model with absent halves made to write nothing."""
    masked = copy.deepcopy(model)
    for layer, budget in zip(masked.model.layers, candidate, strict=True):
        for unit in ("kv", "ffn"):
            if budget.count(unit) == 0:  # type: ignore[arg-type]
                consumer = LayerView(layer).group(unit).consumer  # type: ignore[arg-type]
                consumer.weight.zero_()
                if consumer.bias is not None:
                    consumer.bias.zero_()
    return masked


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_halves_are_silent_halves(family: str) -> None:
    model, windows = build_model(family), random_windows(6, 16)
    candidates = [(FULL, FULL, FULL), (NO_ATTENTION, FULL, NO_FFN), (FULL, GONE, FULL), (FULL, GONE, NO_FFN)]
    found = DivergenceBench(ResidentModel(model), windows).divergences(candidates)
    assert found[0] == pytest.approx(0, abs=1e-6)
    for candidate, value in zip(candidates, found, strict=True):
        assert value == pytest.approx(kl(model, silence(model, candidate), windows), rel=1e-4, abs=1e-6)


def test_order_repeats_and_lots_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DivergenceBench(ResidentModel(build_model()), random_windows(6, 16))
    candidates = [(FULL, GONE, FULL), (GONE, FULL, FULL), (FULL, GONE, FULL), (FULL, FULL, NO_FFN)]
    together = bench.divergences(candidates)
    assert together[0] == together[2]
    monkeypatch.setattr("compressors.divergence.STATES_BYTES", 1)
    monkeypatch.setattr("compressors.divergence._LOGIT_ELEMENTS", 96 * 7)
    monkeypatch.setattr("compressors.streams._PIECE_ELEMENTS", 48 * 16)
    assert bench.divergences(candidates) == pytest.approx(together, rel=1e-6)
    assert bench.divergences(candidates[::-1]) == pytest.approx(together[::-1], rel=1e-6)


def test_fewer_tokens_are_the_first_windows() -> None:
    model, windows = build_model(), random_windows(8, 16)
    bench, candidate = DivergenceBench(ResidentModel(model), windows), (FULL, GONE, FULL)
    assert bench.tokens == 128
    (few,) = bench.divergences([candidate], max_tokens=32)
    assert few == pytest.approx(kl(model, silence(model, candidate), windows[:2]), rel=1e-4)
    assert few != pytest.approx(bench.divergences([candidate])[0], rel=1e-3)


def test_a_level_is_the_ranked_cut_with_its_repaired_consumer() -> None:
    model, windows = build_model("qwen3"), random_windows(6, 16)
    library, cut = LevelLibrary(), copy.deepcopy(model)
    units: tuple[WidthUnit, ...] = ("kv", "ffn")
    for index, layer in enumerate(cut.model.layers):
        for unit in units:
            group = LayerView(layer).group(unit)
            ranking = rank_by_score(torch.randn(group.count, generator=torch.Generator().manual_seed(index)))
            keep_units(group, ranking.kept(NARROW.count(unit)))
            library.rankings[index, unit] = ranking
            if index == 1:
                group.consumer.weight.mul_(1.1)
                library.store.keep((index, unit), NARROW.count(unit), group.consumer)
    (found,) = DivergenceBench(ResidentModel(model), windows).divergences([(NARROW,) * 3], library)
    assert found == pytest.approx(kl(model, cut, windows), rel=1e-4) and found > 0.01


def test_views_share_weights_and_leave_the_layer_alone() -> None:
    layer = LayerView(build_model().model.layers[0])
    bare, own = without_half(layer, "kv"), with_own_half(layer, "ffn")
    assert layer.has("kv") and not bare.has("kv") and bare.ffn is layer.ffn
    keep_units(own.group("ffn"), (1, 2))
    assert own.ffn_width == 2 and layer.ffn_width == 48 and own.attention is layer.attention
