"""What do the machine's NVIDIA GPUs draw, at which clocks, and what holds them down?

Read through NVML's C library, which every driver brings, at the moment of a scrape. Energy is the board's own counter
(millijoules since the driver was loaded), not a sampled power. Without a driver nothing of this is on the page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_SM_CLOCK, _MEMORY_CLOCK = 1, 2
_CHIP = 0

# nvmlClocksThrottleReason*: bits of nvmlDeviceGetCurrentClocksThrottleReasons.
THROTTLE_REASONS = {
    "power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}


Answer = TypeVar("Answer", ctypes.c_uint, ctypes.c_ulonglong, "_Memory")


class Nvml(Protocol):
    """The C library; every function returns a status, 0 for success, and writes to what it is given."""

    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge that NVML answers with one unsigned int, in units of `scale`."""

    name: str
    about: str
    function: str
    scale: float
    arguments: tuple[int, ...] = ()


READINGS = (
    Reading("power_watts", "Power that the board draws.", "nvmlDeviceGetPowerUsage", 1e-3),
    Reading("power_limit_watts", "Enforced power cap.", "nvmlDeviceGetEnforcedPowerLimit", 1e-3),
    Reading("sm_clock_hertz", "Clock of the multiprocessors.", "nvmlDeviceGetClockInfo", 1e6, (_SM_CLOCK,)),
    Reading("memory_clock_hertz", "Clock of the memory.", "nvmlDeviceGetClockInfo", 1e6, (_MEMORY_CLOCK,)),
    Reading("temperature_celsius", "Temperature of the chip.", "nvmlDeviceGetTemperature", 1.0, (_CHIP,)),
)


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def installed_nvml() -> Nvml | None:
    """None where there is no driver, or one that does not answer."""
    try:
        library: Nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == _SUCCESS else None


class GpuCollector(Collector):
    """One family at a time, so that a scrape never holds up other clients for all of them."""

    def __init__(self, nvml: Nvml | None) -> None:
        self._nvml = nvml
        self._devices = [] if nvml is None else list(_devices(nvml))

    def collect(self) -> Iterator[Metric]:
        for reading in READINGS:
            family = _gauge(reading.name, reading.about)
            for gpu, device in self._devices:
                value = self._asked(reading.function, ctypes.c_uint(), device, *reading.arguments)
                if value is not None:
                    family.add_metric((gpu,), value.value * reading.scale)
            yield family
        yield self._energy()
        yield self._memory()
        yield self._throttled()

    def _energy(self) -> Metric:
        family = CounterMetricFamily(
            "prunebench_gpu_energy_joules", "Energy since the driver was loaded.", labels=("gpu",)
        )
        for gpu, device in self._devices:
            value = self._asked("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong(), device)
            if value is not None:
                family.add_metric((gpu,), value.value / 1e3)
        return family

    def _memory(self) -> Metric:
        family = _gauge("memory_used_bytes", "Memory in use on the board.")
        for gpu, device in self._devices:
            memory = self._asked("nvmlDeviceGetMemoryInfo", _Memory(), device)
            if memory is not None:
                family.add_metric((gpu,), memory.used)
        return family

    def _throttled(self) -> Metric:
        family = _gauge("throttled", "1 while the clocks are held down for the reason.", "reason")
        for gpu, device in self._devices:
            mask = self._asked("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong(), device)
            if mask is not None:
                for reason, bit in THROTTLE_REASONS.items():
                    family.add_metric((gpu, reason), bool(mask.value & bit))
        return family

    def _asked(self, function: str, into: Answer, device: ctypes.c_void_p, *arguments: int) -> Answer | None:
        """What the function wrote; None where the board cannot say (a status other than 0)."""
        status = getattr(self._nvml, function)(device, *arguments, ctypes.byref(into))
        return into if status == _SUCCESS else None


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"prunebench_gpu_{name}", about, labels=("gpu", *labels))


def _devices(nvml: Nvml) -> Iterator[tuple[str, ctypes.c_void_p]]:
    """(index, handle); none where NVML cannot say."""
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
        return
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == _SUCCESS:
            yield str(index), handle
