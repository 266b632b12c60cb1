"""What do the machine's NVIDIA GPUs say of themselves? Asked through NVML's C library, which every driver brings.

Energy is the board's own counter (millijoules since the driver was loaded), not a sampled power. What a board cannot
say is None: a driver too old, a board too old, one in MIG mode, one that fell off the bus.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

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


class MemoryInfo(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


Answer = TypeVar("Answer", ctypes.c_uint, ctypes.c_ulonglong, MemoryInfo)


class Nvml(Protocol):
    """The C library; every function returns a status, 0 for success, and writes to what it is given."""

    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Question:
    """What NVML answers with one unsigned int, in units of `scale`."""

    function: str
    scale: float
    arguments: tuple[int, ...] = ()


POWER_W = Question("nvmlDeviceGetPowerUsage", 1e-3)
POWER_CAP_W = Question("nvmlDeviceGetEnforcedPowerLimit", 1e-3)
SM_CLOCK_HZ = Question("nvmlDeviceGetClockInfo", 1e6, (_SM_CLOCK,))
MEMORY_CLOCK_HZ = Question("nvmlDeviceGetClockInfo", 1e6, (_MEMORY_CLOCK,))
MOST_SM_CLOCK_HZ = Question("nvmlDeviceGetMaxClockInfo", 1e6, (_SM_CLOCK,))
MOST_MEMORY_CLOCK_HZ = Question("nvmlDeviceGetMaxClockInfo", 1e6, (_MEMORY_CLOCK,))
TEMPERATURE_C = Question("nvmlDeviceGetTemperature", 1.0, (_CHIP,))


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU by its NVML index. Every method answers None where the board cannot say."""

    nvml: Nvml
    index: int
    handle: ctypes.c_void_p

    def number(self, question: Question) -> float | None:
        value = self._asked(question.function, ctypes.c_uint(), *question.arguments)
        return None if value is None else value.value * question.scale

    def energy_joules(self) -> float | None:
        """Since the driver was loaded."""
        value = self._asked("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if value is None else value.value / 1e3

    def memory_used_bytes(self) -> int | None:
        memory = self._asked("nvmlDeviceGetMemoryInfo", MemoryInfo())
        return None if memory is None else int(memory.used)

    def throttled(self) -> frozenset[str] | None:
        """Which of THROTTLE_REASONS hold the clocks down at this moment."""
        mask = self._asked("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return None if mask is None else frozenset(r for r, bit in THROTTLE_REASONS.items() if mask.value & bit)

    def _asked(self, function: str, into: Answer, *arguments: int) -> Answer | None:
        call = getattr(self.nvml, function, None)  # a driver's library may lack what came later
        answered = call is not None and call(self.handle, *arguments, ctypes.byref(into)) == _SUCCESS
        return into if answered else None


def installed_nvml() -> Nvml | None:
    """None where there is no driver, or one that does not answer."""
    try:
        library: Nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == _SUCCESS else None


def boards_of(nvml: Nvml | None) -> tuple[Board, ...]:
    """Every GPU that NVML gives a handle of; none where it cannot say."""
    count = ctypes.c_uint()
    if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
        return ()
    handles = [(index, ctypes.c_void_p()) for index in range(count.value)]
    return tuple(
        Board(nvml, index, handle)
        for index, handle in handles
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == _SUCCESS
    )
