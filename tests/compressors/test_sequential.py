"""Going layer by layer: what is kept is what was planned, and repair pays where it is measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resident import prune_resident
from tiny_models import FAMILIES, build_model, logits_of, random_windows

from artifacts.variant import Unit
from compressors.arch import LayerView
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.plan import LayerBudget, Plan, Ranking
from compressors.quality import EvaluationRequest, evaluate
from compressors.registry import WidthEvidence
from compressors.request import CompressionRequest
from compressors.sequential import PruningJob
from compressors.streams import captured_input
from compressors.surgery import keep_units, unit_slots
from compressors.verify import verify_variant


def job(method: str, *units: Unit, compensate: bool = False, seed: int = 0, ffn: int = 30) -> PruningJob:
    """Two of four KV groups, `ffn` of 48 channels, the first two of three layers, of whatever is to be pruned."""
    width = LayerBudget(kv_groups=2 if "kv" in units else 4, ffn_channels=ffn if "ffn" in units else 48)
    dropped = LayerBudget(kv_groups=0, ffn_channels=0)
    allocation = (width, width, dropped if "layers" in units else width)
    return PruningJob(
        method=REGISTRY.named(method), units=units, allocation=allocation, compensate=compensate, seed=seed
    )


def prune(model: Any, wanted: PruningJob, windows: torch.Tensor | None = None) -> Plan:
    return prune_resident(model, wanted, windows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("method", "units"),
    [
        ("random", ("ffn",)),
        ("magnitude", ("ffn",)),
        ("magnitude", ("kv",)),
        ("wanda_sp", ("ffn", "kv")),
        ("block_influence", ("layers",)),
    ],
)
def test_what_is_left_is_what_the_plan_says(family: str, method: str, units: tuple[Unit, ...]) -> None:
    """Counts as budgeted, indices ascending, and the surviving gate and key rows are those of the original."""
    before, model = build_model(family), build_model(family)
    plan = prune(model, job(method, *units), random_windows())
    kept_layers = plan.kept_layers
    assert len(kept_layers) == len(model.model.layers) == (2 if "layers" in units else 3)
    for position, index in enumerate(kept_layers):
        kept, layer, base = plan.layers[index], model.model.layers[position], before.model.layers[index]
        assert len(kept.ffn_channels) == (30 if "ffn" in units else 48)
        assert len(kept.kv_groups) == (2 if "kv" in units else 4)
        assert kept.ffn_channels == tuple(sorted(set(kept.ffn_channels)))
        assert torch.equal(layer.mlp.gate_proj.weight, base.mlp.gate_proj.weight[list(kept.ffn_channels)])
        keys = unit_slots(kept.kv_groups, 32)
        assert torch.equal(layer.self_attn.k_proj.weight, base.self_attn.k_proj.weight[keys])


def test_random_draws_anew_in_every_layer() -> None:
    plan = prune(build_model(), job("random", "ffn"))
    assert len({layer.ffn_channels for layer in plan.layers}) == 3


def test_magnitude_is_the_global_truth_of_each_layer() -> None:
    """The weakest channels are made weak by hand, others in every layer."""
    model = build_model()
    weak = {0: {1, 5, 9}, 1: {0, 2, 47}, 2: {20, 21, 22}}
    for index, channels in weak.items():
        group = LayerView(model.model.layers[index]).group("ffn")
        for channel in channels:
            group.consumer.weight[:, channel] *= 1e-3
            for producer in group.producers:
                producer.linear.weight[channel] *= 1e-3
    plan = prune(model, job("magnitude", "ffn", ffn=45))
    assert [set(range(48)) - set(layer.ffn_channels) for layer in plan.layers] == list(weak.values())


def test_later_layers_are_scored_on_the_pruned_stream() -> None:
    """Scores of layer 1 come from inputs behind the cut layer 0, not from the dense model's."""
    seen: list[torch.Tensor] = []
    method = REGISTRY.named("wanda_sp")

    def spy(config: object, evidence: WidthEvidence) -> Ranking:
        assert method.rank_width is not None
        seen.append(evidence.required_statistics.input_norms.clone())
        return method.rank_width(config, evidence)

    wanted = replace(job("wanda_sp", "ffn"), method=replace(method, rank_width=spy))
    windows = random_windows()
    plan = prune(build_model(), wanted, windows)
    dense, half_cut = build_model(), build_model()
    keep_units(LayerView(half_cut.model.layers[0]).group("ffn"), plan.layers[0].ffn_channels)
    assert torch.allclose(seen[0], ffn_norms(dense, 0, windows), rtol=1e-4)
    assert torch.allclose(seen[1], ffn_norms(half_cut, 1, windows), rtol=1e-4)
    assert not torch.allclose(seen[1], ffn_norms(dense, 1, windows), rtol=1e-2)


def ffn_norms(model: Any, index: int, windows: torch.Tensor) -> torch.Tensor:
    """[channels] norms of the FFN consumer's inputs when the whole model runs."""
    with torch.inference_mode(), captured_input(model.model.layers[index].mlp.down_proj) as seen:
        model(input_ids=windows, use_cache=False)
    return seen.value.flatten(0, 1).norm(dim=0)


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda_sp"])
def test_repair_brings_the_logits_nearer(method: str) -> None:
    """On the calibration windows themselves, where least squares promises it."""
    windows, distances = random_windows(64, 24), {}
    dense = build_model()
    with torch.inference_mode():
        expected = dense(input_ids=windows, use_cache=False).logits
    for compensate in (False, True):
        model = copy.deepcopy(dense)
        prune(model, job(method, "ffn", compensate=compensate), windows)
        with torch.inference_mode():
            distances[compensate] = float((model(input_ids=windows, use_cache=False).logits - expected).norm())
    assert distances[True] < 0.97 * distances[False]


def test_repair_changes_consumers_only() -> None:
    plain, repaired = build_model("qwen2"), build_model("qwen2")
    prune(plain, job("magnitude", "ffn"))
    prune(repaired, job("magnitude", "ffn", compensate=True), random_windows())
    other = dict(repaired.named_parameters())
    changed = {name for name, tensor in plain.named_parameters() if not torch.equal(tensor, other[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)}


def test_the_dense_model_is_what_a_method_sees_first() -> None:
    """No method changes anything by choosing: with everything kept the model stays as it was."""
    model = build_model()
    expected = logits_of(model)
    full = (LayerBudget(kv_groups=4, ffn_channels=48),) * 3
    for name in REGISTRY.names:
        method = REGISTRY.named(name)
        wanted = PruningJob(method=method, units=method.units, allocation=full, compensate=False, seed=0)
        prune(model, wanted, random_windows())
        assert torch.equal(logits_of(model), expected), name


def test_repair_pays_on_a_trained_model(stories: Callable[[str], Path], tmp_path: Path) -> None:
    """A quarter of the FFN of stories260K by random choice, little text to repair with, other stories to judge by."""
    documents = stories("corpora/tinystories/dev.txt").read_text().split("\n<|endoftext|>\n")
    for name, part in (("calibration.txt", documents[::2]), ("evaluation.txt", documents[1:60:2])):
        (tmp_path / name).write_text("\n<|endoftext|>\n".join(part))
    losses = {}
    for compensate in (False, True):
        request = CompressionRequest(
            model=str(stories("models/stories260K")),
            out=tmp_path / f"variant-{compensate}",
            method="random",
            ratio=0.25,
            calibration=str(tmp_path / "calibration.txt"),
            calibration_tokens=8192,
            compensate=compensate,
        )
        compress(request, verify=verify_variant)
        losses[compensate] = evaluate(EvaluationRequest(model=request.out, text=tmp_path / "evaluation.txt")).loss_nats
    assert losses[True] < losses[False] - 0.2
