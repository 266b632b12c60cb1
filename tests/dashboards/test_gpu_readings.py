"""The GPUs' readings, from a library that answers as NVML's header says: units, boards, and what a board cannot say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from artifacts import nvml as nvml_library
from artifacts.fleet import Fleet, VariantEntry
from artifacts.nvml import THROTTLE_REASONS, installed_nvml
from server.gpu_metrics import GpuCollector
from server.metrics import GatewayMetrics
from server.registry import Registry
from tests.nvml import FakeNvml

ONE = Fleet(variants=(VariantEntry(name="dense", engine="sim"),))


def collected(nvml: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(nvml))
    return registry


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("power_watts", 512.345),
        ("power_limit_watts", 700.0),
        ("sm_clock_hertz", 1.98e9),
        ("memory_clock_hertz", 3.201e9),
        ("temperature_celsius", 61.0),
        ("energy_joules_total", 123_456_789_012.345),
        ("memory_used_bytes", 40 << 30),
    ],
)
def test_reading_is_in_base_units(name: str, value: float) -> None:
    assert collected(FakeNvml()).get_sample_value(f"prunebench_gpu_{name}", {"gpu": "0"}) == pytest.approx(value)


def test_a_board_that_cannot_say_is_left_out_and_the_other_is_not() -> None:
    registry = collected(FakeNvml())
    assert registry.get_sample_value("prunebench_gpu_energy_joules_total", {"gpu": "1"}) is None
    assert registry.get_sample_value("prunebench_gpu_power_watts", {"gpu": "1"}) == pytest.approx(512.345)


def test_every_reason_has_a_sample_and_only_those_that_hold_are_one() -> None:
    registry = collected(FakeNvml())
    held = {
        reason: registry.get_sample_value("prunebench_gpu_throttled", {"gpu": "0", "reason": reason})
        for reason in THROTTLE_REASONS
    }
    assert held == {reason: float(reason in ("power_cap", "hardware_thermal")) for reason in THROTTLE_REASONS}


def test_without_a_driver_there_is_nothing_and_nobody_minds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_library, "LIBRARY", "libno-such-driver.so.1")
    assert installed_nvml() is None
    assert all(not metric.samples for metric in collected(None).collect())
    pages = "".join(page.text for page in GatewayMetrics(Registry(ONE, "/nowhere")).pages())
    assert "prunebench_gpu_" not in pages
    assert "prunebench_build_info" in pages


class _Refusing:
    """A driver that is there and does not answer."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_: 9


def test_a_driver_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: _Refusing())
    assert installed_nvml() is None
    assert all(not metric.samples for metric in collected(_Refusing()).collect())


def test_a_driver_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Ready(_Refusing):
        def nvmlInit_v2(self) -> int:
            return 0

    ready = _Ready()
    monkeypatch.setattr("ctypes.CDLL", lambda _: ready)
    assert installed_nvml() is ready
