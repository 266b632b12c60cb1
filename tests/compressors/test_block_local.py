"""Block-local reconstruction: which half learns what from which, with nothing else moving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recovery_cases import everything, make_patient, shapes_of
from tiny_models import build_model
from torch import nn

from artifacts.errors import ConfigError
from artifacts.variant import LayerShape
from compressors.arch import ModelView
from compressors.recovery.block_local import BlockLocalConfig, Stream, find_stretches, stages
from compressors.recovery.patient import Patient, ShapedModel
from compressors.surgery import keep_units

CONFIG = BlockLocalConfig()


def stretch_names(student: ShapedModel, teacher: ShapedModel) -> list[tuple[str, list[str], bool]]:
    return [
        (
            f"{stretch.half.position}{stretch.half.unit}",
            [f"{half.position}{half.unit}" for half, _ in stretch.stands_for],
            stretch.is_cut,
        )
        for stretch in find_stretches(student, teacher)
    ]


def with_layers(kept: tuple[int, ...]) -> tuple[ShapedModel, ShapedModel]:
    """(student with these layers of three, teacher), shapes as a manifest gives them."""
    student, teacher = ModelView(build_model()), ModelView(build_model())
    student.model.model.layers = nn.ModuleList(student.model.model.layers[index] for index in kept)
    student.config.num_hidden_layers = len(kept)
    student.config.layer_types = None
    whole = shapes_of(teacher)
    return ShapedModel(student, tuple(whole[index] for index in kept)), ShapedModel(teacher, whole)


def test_narrower_halves_learn_and_the_others_do_not() -> None:
    patient = make_patient()
    assert patient.teacher is not None
    names = stretch_names(patient.student, patient.teacher)
    assert names == [(f"{i}{unit}", [f"{i}{unit}"], unit == "ffn") for i in range(3) for unit in ("kv", "ffn")]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ((0, 2), [("0kv", ["0kv"], False), ("0ffn", ["0ffn", "1kv", "1ffn"], True), ("1kv", ["2kv"], False)]),
        ((1, 2), [("0kv", ["0kv", "0ffn", "1kv"], True), ("0ffn", ["1ffn"], False), ("1kv", ["2kv"], False)]),
        ((0, 1), [("0kv", ["0kv"], False), ("0ffn", ["0ffn"], False), ("1kv", ["1kv"], False)]),
    ],
    ids=["a gap inside", "a gap in front", "a gap behind"],
)
def test_the_half_before_a_gap_stands_for_it(
    kept: tuple[int, ...], expected: list[tuple[str, list[str], bool]]
) -> None:
    names = stretch_names(*with_layers(kept))
    assert names[:3] == expected
    assert [half for _, run, _ in names for half in run] == [f"{i}{u}" for i in range(3) for u in ("kv", "ffn")]
    assert names[-1][2] == (kept == (0, 1))


def test_a_removed_ffn_is_made_good_by_the_attention_before_it() -> None:
    """Read from the shapes alone: the module is not asked."""
    student, teacher = with_layers((0, 1, 2))
    shapes = (*student.shapes[:1], student.shapes[1].model_copy(update={"ffn_width": 0}), *student.shapes[2:])
    names = stretch_names(replace(student, shapes=shapes), teacher)
    assert ("1kv", ["1kv", "1ffn"], True) in names and not any(name == "1ffn" for name, _, _ in names)


def test_streams_are_the_models_own_hidden_states() -> None:
    patient = make_patient()
    with torch.no_grad():
        truth = patient.student.view.model(patient.windows, output_hidden_states=True, use_cache=False).hidden_states
        stream = Stream(patient.student.view, patient, windows=8)
        for half, layer in patient.student.halves():
            if half.unit == "kv":
                assert torch.allclose(stream.states, truth[half.position], atol=1e-5)
            stream.move(half, layer)
    assert torch.allclose(patient.student.view.model.model.norm(stream.states), truth[-1], atol=1e-4)


def test_only_one_half_layer_is_differentiated() -> None:
    """The parameters named are the only ones that get a gradient, and the producers and the consumer all do."""
    patient = make_patient()
    seen: list[str] = []
    for stage in stages(CONFIG, patient):
        for weight in stage.parameters.values():
            weight.requires_grad_(True)
        stage.loss(everything()).backward()
        graded = {n for n, w in patient.student.view.model.named_parameters() if w.grad is not None}
        assert graded == stage.parameters.keys()
        for weight in stage.parameters.values():
            weight.requires_grad_(False).grad = None
        seen.append(stage.name)
        assert {name.split(".")[-2] for name in graded} == {"gate_proj", "up_proj", "down_proj"}
        assert (stage.total, stage.windows) == (3, 8)
    assert seen == ["layer 0 ffn", "layer 1 ffn", "layer 2 ffn"]


def test_target_is_the_dense_stream_and_input_the_recovered_one() -> None:
    """Weights that reach the target in layer 0 leave nothing to learn there; layer 1 starts from what layer 0 became.

    The student has all channels but the second half damaged, so putting the teacher's weights back is the optimum.
    """
    patient = make_patient(kept_ffn=None)
    assert patient.teacher is not None
    student, teacher = patient.student, patient.teacher
    narrow = tuple(shape.model_copy(update={"ffn_width": shape.ffn_width - 1}) for shape in student.shapes)
    for layer in student.view.layers:
        layer.ffn.down_proj.weight[:, 24:].zero_()
    claimed = replace(patient, student=replace(student, shapes=narrow))
    losses: list[tuple[float, float]] = []
    for stage in stages(CONFIG, claimed):
        before = float(stage.loss(everything()))
        position = int(stage.name.split()[1])
        dense = teacher.view.layers[position].ffn.down_proj.weight
        student.view.layers[position].ffn.down_proj.weight.copy_(dense)
        losses.append((before, float(stage.loss(everything()))))
    assert all(before > 0.05 and after < 1e-8 for before, after in losses)


def test_input_is_what_the_recovered_halves_before_really_output() -> None:
    """Layer 0 changes while it is trained; layer 1 is judged on the stream behind the changed layer 0."""
    patient = make_patient()
    assert patient.teacher is not None
    running = stages(CONFIG, patient)
    next(running)
    student = patient.student.view.model
    student.model.layers[0].mlp.down_proj.weight.mul_(-0.5)
    given = float(next(running).loss(everything()))

    def behind_layer_1(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(patient.windows, output_hidden_states=True, use_cache=False).hidden_states[2]

    after, target = behind_layer_1(student), behind_layer_1(patient.teacher.view.model)
    student.model.layers[1].mlp.down_proj.weight.zero_()
    before = behind_layer_1(student)
    expected = float((after - target).square().mean() / (before - target).square().mean())
    assert given == pytest.approx(expected, rel=1e-4)


def test_loss_is_relative_to_what_the_half_has_to_write() -> None:
    """A half that writes nothing has loss 1 exactly."""
    patient = make_patient()
    stage = next(stages(CONFIG, patient))
    patient.student.view.layers[0].ffn.down_proj.weight.zero_()
    assert float(stage.loss(everything())) == pytest.approx(1, abs=1e-5)


def test_pool_bounds_the_hidden_states() -> None:
    stage = next(stages(BlockLocalConfig(pool_tokens=50), make_patient()))
    assert stage.windows == 3


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(ConfigError, match="Nothing was cut"):
        next(stages(CONFIG, make_patient(kept_ffn=None)))


def test_a_cut_residual_stream_has_no_target() -> None:
    patient = make_patient()
    narrow = ModelView(build_model(hidden_size=32))
    with pytest.raises(ConfigError, match="residual stream itself"):
        next(stages(CONFIG, replace(patient, student=ShapedModel(narrow, shapes_of(narrow)))))


def test_removed_halves_are_no_halves() -> None:
    shape = LayerShape(index=0, query_heads=0, kv_heads=0, ffn_width=4)
    view = ModelView(build_model(num_hidden_layers=1))
    assert [half.unit for half, _ in ShapedModel(view, (shape,)).halves()] == ["ffn"]


def test_kv_groups_learn_with_their_biases() -> None:
    patient: Patient = make_patient("llama-biased", kept_ffn=None)
    for layer in patient.student.view.layers:
        keep_units(layer.group("kv"), (0, 2))
    cut = replace(patient, student=ShapedModel(patient.student.view, shapes_of(patient.student.view)))
    stage = next(stages(CONFIG, cut))
    assert stage.name == "layer 0 kv"
    endings = {".".join(name.split(".")[-2:]) for name in stage.parameters}
    assert endings == {f"{m}_proj.{kind}" for m in "qkvo" for kind in ("weight", "bias")}
