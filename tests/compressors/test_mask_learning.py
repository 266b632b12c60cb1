"""Learnt masks from the request to the variant: planted units go, budgets are met, and what is refused is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import silence
from safetensors.torch import load_file
from tiny_models import build_model, save_checkpoint
from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.progress import silent
from artifacts.variant import VariantManifest
from compressors import mask_learning
from compressors.allocation.space import Target, WidthSpace, require_target, resized
from compressors.budget import base_widths
from compressors.costs import kv_byte_costs
from compressors.mask_layout import DepthLayout, WidthLayout
from compressors.mask_learning import MaskLearning, softened
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.plan import LayerBudget, rank_by_score
from compressors.request import CompressionRequest
from compressors.resident import ResidentModel
from compressors.sequential import PruningJob
from compressors.task import resolve_task
from compressors.verify import verify_variant

FULL = LayerBudget(kv_groups=4, ffn_channels=48)
QUICK = ("steps=12", "samples=2", "batch_tokens=16")


def own_words(model: Any, count: int = 48, tokens: int = 12) -> Tensor:
    """Drawn from the model itself: on such text every other model's expected loss is higher."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 96, (count, 1), generator=random)
    with torch.inference_mode():
        for _ in range(tokens - 1):
            chances = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(dim=-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=random)], dim=1)
    return ids


def learning(model: Any, units: tuple[Any, ...], **settings: Any) -> MaskLearning:
    method = REGISTRY.named("policy_gradient")
    chosen = replace(method, config=replace(method.config, **settings))
    return MaskLearning(
        model=ResidentModel(model),
        job=PruningJob(method=chosen, units=units, allocation=(), repair="none", seed=0),
        windows=own_words(model),
        registry=REGISTRY,
        resident=True,
    )


def planted_dead(model: Any, every: int) -> set[int]:
    """Every so-many-th channel of each FFN writes nothing, though its other weights are the largest of all."""
    for layer in model.model.layers:
        layer.mlp.down_proj.weight *= 5
        layer.mlp.down_proj.weight[:, ::every] = 0
        layer.mlp.up_proj.weight[::every] *= 10
    return set(range(0, 48, every))


def test_planted_dead_units_are_found_from_forward_passes_alone() -> None:
    """Without a score to begin with, in both layers.

    By chance 3 of the 12 would be among the first 12, and 10 of them once in 1,600,000 times.
    """
    model = build_model(num_hidden_layers=2)
    dead = planted_dead(model, 4)
    learner = learning(model, ("ffn",), start=None, steps=800, batch_tokens=48)
    rankings = learner.widths(None, (replace(FULL, ffn_channels=36),) * 2)
    for ranking in rankings.values():
        assert len(set(ranking.order[:12]) & dead) >= 10, sorted(ranking.order[:12])
        assert float(ranking.costs.sum()) <= 36 * (1 + 1e-9)


@pytest.mark.parametrize("start", ["default", None])
def test_a_layer_that_writes_nothing_goes(start: str | None) -> None:
    model = build_model(num_hidden_layers=4)
    silence(model, 2, "kv", "ffn")
    learner = learning(model, ("layers",), start=start, steps=80, samples=8, batch_tokens=48)
    left = learner.depths({"layers": 1})
    assert [budget.present for budget in left] == [True, True, False, True]


def test_a_global_budget_takes_from_the_layer_that_has_nothing_to_lose() -> None:
    """Of two layers' FFNs one is nearly silent, and most of what has to go goes there."""
    model = build_model(num_hidden_layers=2)
    model.model.layers[0].mlp.down_proj.weight *= 5
    model.model.layers[1].mlp.down_proj.weight *= 1e-3
    space = WidthSpace(layers=2, dense=FULL, units=("ffn",), multiple_of=1)
    costs = replace(kv_byte_costs(1, FULL), halves={"kv": (0,) * 5, "ffn": tuple(range(49))})
    target = require_target(space, costs, 0.3)
    learner = learning(model, ("ffn",), steps=300, batch_tokens=48)
    means = {half: float(r.costs.mean()) for half, r in learner.widths(target, None).items()}
    assert means[1, "ffn"] < means[0, "ffn"] - 0.15
    assert sum(means.values()) * 48 <= target.limit * (1 + 1e-9)


@pytest.fixture
def asked(tmp_path: Path, text_file: Path) -> CompressionRequest:
    return CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense")),
        out=tmp_path / "variant",
        method="policy_gradient",
        ratio=0.3,
        units=("ffn", "kv"),
        settings=QUICK,
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
    )


def cost_left(target: Target, manifest: VariantManifest) -> tuple[float, float]:
    """What the variant costs, and what it would cost with the cheapest notch back."""
    shapes = tuple(LayerBudget(kv_groups=s.kv_heads, ffn_channels=s.ffn_width) for s in manifest.layers)
    wider = [
        target.costs.of(resized(shapes, (index, unit), count))
        for index, unit in target.space.halves
        if (count := target.space.next_wider(unit, shapes[index].count(unit))) is not None
    ]
    return target.costs.of(shapes), min(wider)


@pytest.mark.parametrize("kind", ["params", "kv_bytes"])
def test_the_budget_is_met_by_whole_units(asked: CompressionRequest, kind: Any) -> None:
    """Never exceeded, and no unit that still fits was left out."""
    request = replace(asked, allocation="learned", budget=kind)
    target = resolve_task(request).target
    assert target is not None
    manifest = compress(request, verify=verify_variant)
    cost, with_one_more = cost_left(target, manifest)
    assert cost <= target.limit < with_one_more
    assert manifest.allocation is not None and manifest.allocation.name == "learned"
    assert manifest.method.config["steps"] == 12 and manifest.method.repair == "ridge"


def test_uniform_widths_leave_a_stock_checkpoint(asked: CompressionRequest) -> None:
    manifest = compress(asked, verify=verify_variant)
    assert manifest.expressibility == "stock"
    assert {(layer.kv_heads, layer.ffn_width) for layer in manifest.layers} == {(3, 34)}


def test_layers_are_learnt_and_leave_as_stock(asked: CompressionRequest) -> None:
    manifest = compress(replace(asked, units=("layers",)), verify=verify_variant)
    assert manifest.expressibility == "stock" and [layer.present for layer in manifest.layers].count(False) == 1
    assert manifest.method.repair == "none"


@pytest.mark.parametrize("changes", [{}, {"allocation": "learned"}, {"units": ("layers",)}])
def test_nothing_to_remove_changes_no_byte(asked: CompressionRequest, changes: dict[str, Any]) -> None:
    manifest = compress(replace(asked, ratio=0.0, **changes), verify=verify_variant)
    left, had = (load_file(folder / "model.safetensors") for folder in (asked.out, Path(asked.model)))
    assert left.keys() == had.keys() and all(torch.equal(left[name], had[name]) for name in had)
    assert manifest.ratios.params_total == 0


def test_an_interrupted_learning_goes_on_with_the_same_bytes(
    asked: CompressionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compress(replace(asked, out=asked.out.with_name("whole")), verify=verify_variant)
    begun: list[int] = []
    learn = mask_learning.learn

    def stopped(config: Any, state: Any, *rest: Any) -> Tensor:
        begun.append(state.step)
        if state.step:
            return learn(config, state, *rest)
        *most, keep = rest

        def keep_and_stop(known: Any) -> None:
            keep(known)
            if known.step == 7:
                raise KeyboardInterrupt

        return learn(config, state, *most, keep_and_stop)

    monkeypatch.setattr(mask_learning, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        compress(asked, verify=verify_variant)
    again = compress(asked, verify=verify_variant)
    assert begun == [0, 7]
    assert again.checksums == whole.checksums


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"units": ("layers", "ffn")}, "learns widths or what goes whole, not both"),
        ({"allocation": "evolutionary"}, "Use --allocation learned, or uniform"),
        ({"method": "obs", "settings": (), "allocation": "learned"}, "obs learns no probabilities"),
        ({"settings": ("start=prunenet",)}, "does not rank kv"),
        ({"settings": ("start=greedy_kl",)}, "Method greedy_kl does not rank"),
        ({"units": ("layers",), "settings": ("start=obs",)}, "Layers cannot begin with obs"),
        ({"units": ("layers",), "repair": "ridge"}, "leaves nothing to refit"),
        (
            {"settings": ("samples=1",)},
            "samples=1 of method policy_gradient: Input should be greater than",
        ),
    ],
)
def test_what_cannot_be_is_refused(asked: CompressionRequest, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        compress(replace(asked, **changes), silent, verify=verify_variant)
    assert not asked.out.exists()


@pytest.mark.parametrize("start", ["taylor", "obs", "random", "magnitude"])
def test_any_width_method_can_rank_the_beginning(start: str) -> None:
    """After no step at all the order is the method's."""
    model = build_model()
    learner = learning(model, ("ffn",), start=start, steps=0)
    rankings = learner.widths(None, (replace(FULL, ffn_channels=24),) * 3)
    layout = WidthLayout.of(base_widths(model.config), ("ffn",))
    for half, ranking in learner._rankings(start, layout, base_widths(model.config)).items():
        assert set(rankings[half].order[:24]) == set(ranking.order[:24])


def test_a_ranking_becomes_rising_probabilities() -> None:
    chances = softened(rank_by_score([5.0, 1.0, 3.0, 2.0, 4.0]), 0.5, 0.2)
    assert chances.argsort().tolist() == [1, 3, 2, 4, 0] and float(chances[2]) == pytest.approx(0.5)
    assert float(chances[0]) == pytest.approx(1 / (1 + torch.e ** (-0.4 / 0.1)))


def test_depth_masks_name_what_goes() -> None:
    layout = DepthLayout.of((FULL,) * 3, {"attention_sublayers": 1, "ffn_sublayers": 2})
    chances = torch.tensor([0.9, 0.2, 0.8, 0.1, 0.9, 0.1], dtype=torch.float64)
    assert layout.removals(chances) == [("attention_sublayers", 1), ("ffn_sublayers", 2), ("ffn_sublayers", 0)]
    assert [limit.most for limit in layout.limits()] == [2.0, 1.0]
    assert set(layout.spread(chances[None])) == {(i, unit) for i in range(3) for unit in ("kv", "ffn")}
