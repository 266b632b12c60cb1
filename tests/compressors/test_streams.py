"""The two streams carry exactly the hidden states that the whole model would compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from resident import ResidentModel
from tiny_models import FAMILIES, build_model, random_windows

from compressors.arch import ModelView, WidthUnit
from compressors.streams import Streams, captured_input, hidden_states
from compressors.surgery import keep_units


def reference_states(model: Any, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hidden states around every layer; the library's own last one is after the final norm, so it is left out."""
    with torch.inference_mode():
        return model(input_ids=windows, use_cache=False, output_hidden_states=True).hidden_states[:-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_models(family: str) -> None:
    model, windows = build_model(family), random_windows(5, 20)
    with torch.inference_mode():
        states = [state.clone() for state in hidden_states(ResidentModel(model), windows)]
    assert len(states) == 4
    for ours, theirs in zip(states, reference_states(model, windows), strict=False):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_sliding_window_is_respected() -> None:
    """Layer by layer, the mask must not silently become the plain causal one."""
    model, windows = build_model("mistral", sliding_window=4), random_windows(5, 20)
    with torch.inference_mode():
        states = [state.clone() for state in hidden_states(ResidentModel(model), windows)]
        plain = [state.clone() for state in hidden_states(ResidentModel(build_model("mistral")), windows)]
    assert torch.allclose(states[2], reference_states(model, windows)[2], atol=1e-5)
    assert not torch.allclose(states[2], plain[2], atol=1e-2)


@pytest.mark.parametrize("unit", ["ffn", "kv"])
def test_statistics_are_sums_over_the_consumers_inputs(unit: WidthUnit) -> None:
    model, windows = build_model(), random_windows(6, 16)
    view = ModelView(model)
    group = view.layers[0].group(unit)
    with torch.inference_mode():
        with captured_input(group.consumer) as seen:
            model(input_ids=windows, use_cache=False)
        x = seen.value.flatten(0, 1).double()
        streams = Streams(ResidentModel(view.model), windows, keep_dense=True)
        if unit == "ffn":
            streams.advance(0, view.layers[0], "kv")
        statistics = streams.observe(0, view.layers[0], unit)
    assert statistics.tokens == 6 * 16
    assert torch.allclose(statistics.input_norms.double(), x.norm(dim=0), rtol=1e-5)
    assert statistics.gram is not None and statistics.cross is not None
    assert torch.allclose(statistics.gram, x.T @ x, rtol=1e-4, atol=1e-4)
    uncut_output = group.consumer.weight.double() @ statistics.gram
    assert torch.allclose(statistics.cross, uncut_output, rtol=1e-3, atol=1e-3), "equal streams want the old output"


@pytest.mark.parametrize("family", ["llama", "llama-biased"])
def test_the_wanted_output_leads_back_to_the_dense_stream(family: str) -> None:
    """Behind a cut attention, an FFN that wrote the wanted output would put the stream on the dense model's course."""
    view, windows = ModelView(build_model(family)), random_windows(4, 16)
    dense = reference_states(view.model, windows)[1].clone()
    layer = view.layers[0]
    with torch.inference_mode():
        streams = Streams(ResidentModel(view.model), windows, keep_dense=True)
        streams.observe(0, layer, "kv")
        keep_units(layer.group("kv"), (0, 2))
        streams.pruned.move(0, layer, "kv")
        before = streams.pruned.states.clone()
        with captured_input(layer.group("ffn").consumer) as seen:
            layer.run("ffn", before, {})
        statistics = streams.observe(0, layer, "ffn")
    bias = layer.group("ffn").consumer.bias
    wanted = dense - before - (0 if bias is None else bias)
    expected = wanted.flatten(0, 1).T @ seen.value.flatten(0, 1)
    assert statistics.cross is not None and torch.allclose(statistics.cross.float(), expected, rtol=1e-3, atol=1e-3)
    assert streams.dense is not None and torch.allclose(streams.dense.states, dense, atol=1e-5)
    assert not torch.allclose(before, dense, atol=0.1)


def test_without_a_dense_stream_only_norms_are_kept() -> None:
    view = ModelView(build_model())
    with torch.inference_mode():
        streams = Streams(ResidentModel(view.model), random_windows(), keep_dense=False)
        statistics = streams.observe(0, view.layers[0], "ffn")
    assert statistics.gram is None and statistics.cross is None and streams.dense is None
    assert bool((statistics.input_norms > 0).all())


def test_no_hook_stays_behind() -> None:
    view = ModelView(build_model())
    with torch.inference_mode():
        streams = Streams(ResidentModel(view.model), random_windows(), keep_dense=False)
        streams.observe(0, view.layers[0], "kv")
    assert not any(module._forward_pre_hooks for module in view.model.modules())
