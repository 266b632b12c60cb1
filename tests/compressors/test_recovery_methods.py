"""LoRA, full fine-tuning and distillation: what is trained, towards what, and what is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recovery_cases import everything, make_patient
from tiny_models import FAMILIES, logits_of

from artifacts.errors import ConfigError
from compressors.recovery import distillation, full, lora
from compressors.recovery.methods import METHODS, method_named
from compressors.recovery.registry import RecoveryMethod

ONLY_TEXT = replace(distillation.DistillationConfig(), kl_weight=0.0)
ONLY_KL = replace(distillation.DistillationConfig(), kl_weight=1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_compute_what_they_computed_beside_the_weights(family: str) -> None:
    patient = make_patient(family)
    model = patient.student.view.model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = logits_of(model)
    with lora.adapted(patient, rank=4, alpha_per_rank=2.0) as adapters:
        assert torch.equal(logits_of(model), plain), "training begins at the pruned model itself"
        for weight in adapters.values():
            weight.data.normal_(0, 0.1)
        with_adapters = logits_of(model)
    assert not torch.allclose(with_adapters, plain, atol=1e-2)
    assert torch.allclose(logits_of(model), with_adapters, atol=1e-4)
    after = model.state_dict()
    assert {name: weight.shape for name, weight in after.items()} == {n: w.shape for n, w in before.items()}
    assert not any("lora" in name for name, _ in model.named_modules())
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in changed} == set(matrices) and len(changed) == 3 * 7
    assert all(name.endswith("weight") for name in changed), "biases stay"


def test_adapters_are_all_that_lora_trains() -> None:
    """Per matrix [rows, columns]: rank x (rows + columns)."""
    patient = make_patient()
    with lora.adapted(patient, rank=4, alpha_per_rank=2.0) as adapters:
        per_layer = 2 * (64 + 256) + 2 * (64 + 128) + 3 * (64 + 24)
        assert sum(weight.numel() for weight in adapters.values()) == 3 * 4 * per_layer
        trainable = {name for name, w in patient.student.view.model.named_parameters() if w.requires_grad}
        assert trainable == adapters.keys()


def test_adapters_start_from_the_seed_and_leave_the_global_generator_alone() -> None:
    def drawn(seed: int, disturbance: int) -> torch.Tensor:
        patient = make_patient(seed=seed)
        torch.manual_seed(disturbance)
        with lora.adapted(patient, 2, 1.0) as adapters:
            following = torch.rand(3)
            torch.manual_seed(disturbance)
            assert torch.equal(following, torch.rand(3))
            return torch.cat([weight.flatten() for weight in adapters.values()])

    assert torch.equal(drawn(0, disturbance=3), drawn(0, disturbance=4))
    assert not torch.equal(drawn(0, disturbance=3), drawn(1, disturbance=3))


def test_scale_is_alpha_over_rank() -> None:
    """B A is added `alpha_per_rank` times, whatever the rank."""
    patient = make_patient()
    model = patient.student.view.model
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    with lora.adapted(patient, rank=8, alpha_per_rank=3.0) as adapters:
        for weight in adapters.values():
            weight.data.fill_(0.01)
    change = model.model.layers[0].mlp.down_proj.weight - before
    assert torch.allclose(change, torch.full_like(change, 3.0 * 8 * 0.01**2), atol=1e-6)


def test_an_error_inside_leaves_a_whole_model() -> None:
    patient = make_patient()
    names = list(patient.student.view.model.state_dict())
    with pytest.raises(RuntimeError, match="stop"), lora.adapted(patient, 2, 1.0):
        raise RuntimeError("stop")
    assert list(patient.student.view.model.state_dict()) == names


def test_language_model_loss_is_that_of_the_model_class() -> None:
    patient = make_patient()
    windows = patient.batch(everything())
    with torch.no_grad():
        theirs = patient.student.view.model(input_ids=windows, labels=windows).loss
        ours = full.text_loss(patient, everything())
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


def test_full_trains_every_parameter_once() -> None:
    patient = make_patient("llama")  # tied: the head is the embedding
    (stage,) = full.stages(full.FullConfig(), patient)
    assert {id(w) for w in stage.parameters.values()} == {id(w) for w in patient.student.view.model.parameters()}
    assert "lm_head.weight" not in stage.parameters


def test_kl_of_two_tokens_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 ln 3/2 + 1/4 ln 1/2. The reverse would be 0.1438."""
    teacher, student = torch.tensor([[[0.75, 0.25], [9.0, 1.0]]]).log(), torch.tensor([[[0.5, 0.5], [1.0, 9.0]]]).log()
    assert float(distillation.forward_kl(teacher, student, 1.0)) == pytest.approx(0.1308, abs=1e-4)


def test_temperature_softens_both_and_keeps_the_scale_of_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher, student = (torch.randn(2, 5, 7, generator=generator) for _ in range(2))
    softened = distillation.forward_kl(teacher, student, 2.0)
    by_hand = 4 * distillation.forward_kl(teacher / 2, student / 2, 1.0)
    assert float(softened) == pytest.approx(float(by_hand), rel=1e-6)
    assert float(distillation.forward_kl(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-6)


def test_weight_mixes_the_two_losses() -> None:
    patient = make_patient()
    assert patient.teacher is not None
    with torch.no_grad():
        text, kl, mixed = (
            float(distillation.mixed_loss(config, patient, everything()))
            for config in (ONLY_TEXT, ONLY_KL, replace(ONLY_KL, kl_weight=0.25))
        )
        assert text == pytest.approx(float(full.text_loss(patient, everything())))
    assert mixed == pytest.approx(0.25 * kl + 0.75 * text, rel=1e-5)
    assert kl > 0.01
    same = replace(patient, student=patient.teacher)
    assert float(distillation.mixed_loss(ONLY_KL, same, everything())) == pytest.approx(0, abs=1e-5)


def test_distillation_never_trains_the_teacher() -> None:
    patient = make_patient()
    assert patient.teacher is not None
    (stage,) = distillation.stages(distillation.DistillationConfig(), patient)
    for weight in stage.parameters.values():
        weight.requires_grad_(True)
    stage.loss(everything()).backward()
    assert all(weight.grad is not None for weight in stage.parameters.values())
    assert all(weight.grad is None for weight in patient.teacher.view.model.parameters())


@pytest.mark.parametrize(("trainable", "whole"), [("full", True), ("lora", False)])
def test_distillation_trains_what_was_asked_for(trainable: str, whole: bool) -> None:
    patient = make_patient()
    config = distillation.DistillationConfig(trainable=trainable, rank=2)  # type: ignore[arg-type]
    stage = next(distillation.stages(config, patient))
    assert any("lora" in name for name in stage.parameters) != whole
    assert any("embed_tokens" in name for name in stage.parameters) == whole


@pytest.mark.parametrize("change", [{"kl_weight": 1.5}, {"kl_weight": -0.1}, {"temperature": 0.0}])
def test_impossible_mixtures_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1 and the temperature above 0"):
        next(distillation.stages(replace(distillation.DistillationConfig(), **change), make_patient()))


def test_rank_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        next(lora.stages(lora.LoraConfig(rank=0), make_patient()))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_default_rate_falls_with_the_width(method: RecoveryMethod) -> None:
    narrow, wide = (method.configured(hidden).learning_rate for hidden in (64, 4096))
    assert narrow == pytest.approx(64 * wide)
    assert 1e-5 < wide < 1e-3 < narrow < 2e-2, "what people use for 7 billion parameters, and what suits tiny models"
    assert method.configured(64, learning_rate=0.5).learning_rate == 0.5
    assert "arXiv" in method.paper


def test_distilling_into_adapters_uses_their_rate() -> None:
    method = method_named("distillation")
    assert method.configured(64, trainable="lora").learning_rate == method_named("lora").configured(64).learning_rate


def test_knobs_that_a_method_lacks() -> None:
    with pytest.raises(ConfigError, match="full has no rank"):
        method_named("full").configured(64, rank=8)
    with pytest.raises(ConfigError, match="Known methods are lora, full, distillation, block_local"):
        method_named("prayer")
