"""What do the machine's NVIDIA GPUs draw, at which clocks, and what holds them down?

Read through NVML at the moment of a scrape. Without a driver nothing of this is on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from artifacts.nvml import (
    MEMORY_CLOCK_HZ,
    POWER_CAP_W,
    POWER_W,
    SM_CLOCK_HZ,
    TEMPERATURE_C,
    THROTTLE_REASONS,
    Nvml,
    Question,
    boards_of,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge that a board answers with one number."""

    name: str
    about: str
    question: Question


READINGS = (
    Reading("power_watts", "Power that the board draws.", POWER_W),
    Reading("power_limit_watts", "Enforced power cap.", POWER_CAP_W),
    Reading("sm_clock_hertz", "Clock of the multiprocessors.", SM_CLOCK_HZ),
    Reading("memory_clock_hertz", "Clock of the memory.", MEMORY_CLOCK_HZ),
    Reading("temperature_celsius", "Temperature of the chip.", TEMPERATURE_C),
)


class GpuCollector(Collector):
    """One family at a time, so that a scrape never holds up other clients for all of them."""

    def __init__(self, nvml: Nvml | None) -> None:
        self._boards = boards_of(nvml)

    def collect(self) -> Iterator[Metric]:
        for reading in READINGS:
            family = _gauge(reading.name, reading.about)
            for board in self._boards:
                if (value := board.number(reading.question)) is not None:
                    family.add_metric((str(board.index),), value)
            yield family
        yield self._energy()
        yield self._memory()
        yield self._throttled()

    def _energy(self) -> Metric:
        family = CounterMetricFamily(
            "prunebench_gpu_energy_joules", "Energy since the driver was loaded.", labels=("gpu",)
        )
        for board in self._boards:
            if (joules := board.energy_joules()) is not None:
                family.add_metric((str(board.index),), joules)
        return family

    def _memory(self) -> Metric:
        family = _gauge("memory_used_bytes", "Memory in use on the board.")
        for board in self._boards:
            if (used_bytes := board.memory_used_bytes()) is not None:
                family.add_metric((str(board.index),), used_bytes)
        return family

    def _throttled(self) -> Metric:
        family = _gauge("throttled", "1 while the clocks are held down for the reason.", "reason")
        for board in self._boards:
            if (held := board.throttled()) is not None:
                for reason in THROTTLE_REASONS:
                    family.add_metric((str(board.index), reason), reason in held)
        return family


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"prunebench_gpu_{name}", about, labels=("gpu", *labels))
