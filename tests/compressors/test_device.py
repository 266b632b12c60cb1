"""With a device that computes, every tensor is on the side where it is needed: a GPU would not let them mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_device import PretendedDevice, WrongDevice
from tiny_models import save_checkpoint

from compressors.allocation import allocator_named
from compressors.allocation.evolutionary import ALLOCATOR as EVOLUTIONARY
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.request import CompressionRequest


@pytest.fixture
def asked(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> CompressionRequest:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return CompressionRequest(
        model="qwen2",
        out=tmp_path / "out",
        method="random",
        ratio=0.4,
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
    )


def both_ways(asked: CompressionRequest, **changes: Any) -> PretendedDevice:
    """Runs on the pretended device and on the CPU; the results must have the same bytes."""
    request = replace(asked, **changes)
    request = replace(request, model=str(save_checkpoint(asked.out.with_name("dense"), request.model)))
    with PretendedDevice() as device:
        there = compress(replace(request, device="cuda"), verify=lambda folder: None)
    here = compress(replace(request, out=asked.out.with_name("here")), verify=lambda folder: None)
    assert there.checksums == here.checksums
    return device


@pytest.mark.parametrize("method", REGISTRY.names)
def test_every_method(method: str, asked: CompressionRequest) -> None:
    quick = ("steps=3", "samples=2") if REGISTRY.named(method).learns else ()
    device = both_ways(asked, method=method, settings=quick)
    assert device.sent > 20 and device.fetched > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "obs", "units": ("ffn", "kv")},
        {"method": "flap", "repair": "bias", "model": "llama-biased"},
        {"method": "wanda_sp", "map_states": True},
        {"method": "greedy_kl", "units": ("attention_sublayers", "ffn_sublayers")},
        {"method": "wanda_sp", "allocation": "evolutionary", "units": ("ffn", "kv"), "ratio": 0.2},
        {"method": "obs", "allocation": "dynamic_programme", "units": ("ffn", "kv"), "ratio": 0.2},
        {"method": "wanda_sp", "allocation": "global_threshold", "units": ("ffn", "kv"), "ratio": 0.2},
        {"method": "wanda_sp", "allocation": "influence_softmax", "units": ("ffn", "kv"), "ratio": 0.2},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_every_repair_and_allocation(
    changes: dict[str, Any], asked: CompressionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(EVOLUTIONARY.config, rounds=1, generations=1, offspring=3, reach=1)
    monkeypatch.setattr(
        "compressors.request.allocator_named",
        lambda name: replace(EVOLUTIONARY, config=quick) if name == "evolutionary" else allocator_named(name),
    )
    assert both_ways(asked, **changes).sent > 20


def test_the_pretended_device_refuses_what_a_real_one_refuses() -> None:
    with PretendedDevice() as device:
        there, here = torch.zeros(3, device="cuda"), torch.ones(3)
        assert (there.device.type, here.device.type, there.double()[1:].device.type) == ("cuda", "cpu", "cuda")
        for mixed in (lambda: there + here, lambda: torch.cat([there, here]), there.numpy):
            with pytest.raises(WrongDevice):
                mixed()
        with pytest.raises(WrongDevice):
            there.index_select(0, torch.tensor([0]))
        assert (there + torch.tensor(1.0)).device.type == "cuda", "a single number may come from the CPU"
        here[:2] = there[:2].cpu()
        assert here.tolist() == [0, 0, 1] and there[torch.tensor([1])].device.type == "cuda"
        assert (device.sent, device.fetched) == (0, 1) and here.to(there).device.type == "cuda" and device.sent == 1
