"""The same measurement that a GPU gets, on a processor: two numbers of the right size, and a sentence of how."""

from __future__ import annotations

import pytest
import torch

from artifacts.errors import ConfigError
from modeling import device_speed
from modeling.device_speed import measure_device, measure_gpu


def test_two_numbers_from_counted_bytes_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that says a second for everything the numbers are what was counted."""
    monkeypatch.setattr(device_speed, "_timed_s", lambda work, device: (work(), 1.0)[1])
    found = measure_device("cpu", 1 << 20, 64)
    assert found.memory_bytes_per_s == 2 << 20, "a copy reads and writes"
    assert found.flops_per_s == 2 * 64**3
    assert "best of 7" in found.source and "copy" in found.source


def test_it_runs_for_real() -> None:
    found = measure_device("cpu", 1 << 22, 128)
    assert 1e8 < found.memory_bytes_per_s < 1e13 and 1e6 < found.flops_per_s < 1e14


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        measure_gpu()
