"""A driver's library as NVML's header describes it: boards that answer what they were given."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

NOT_SUPPORTED = 3
LOST = 15
ENERGY, POWER = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"
POWER_CAP, THROTTLING = "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetCurrentClocksThrottleReasons"

Value = int | dict[int, int] | Callable[[], int]
Answers = dict[str, Value]

VALUES: Answers = {
    POWER: 512_345,
    POWER_CAP: 700_000,
    "nvmlDeviceGetClockInfo": {1: 1980, 2: 3201},
    "nvmlDeviceGetTemperature": {0: 61},
    ENERGY: 123_456_789_012_345,
    THROTTLING: 0x4 | 0x40,
}


def without(*names: str) -> Answers:
    return {name: value for name, value in VALUES.items() if name not in names}


class FakeNvml:
    """Writes through the pointer that it is given last, and returns a status. By default two boards, of which the
    second has no energy counter. A board whose index is in `lost` answers nothing any more."""

    def __init__(self, boards: tuple[Mapping[str, Value], ...] = (VALUES, without(ENERGY))) -> None:
        self.boards = boards
        self.lost: set[int] = set()

    def __getattr__(self, name: str) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            return self._call(name, *arguments)

        return called

    def _call(self, name: str, *arguments: Any) -> int:
        if name == "nvmlInit_v2":
            return 0
        into = arguments[-1]._obj
        if name == "nvmlDeviceGetCount_v2":
            into.value = len(self.boards)
        elif name == "nvmlDeviceGetHandleByIndex_v2":
            into.value = 1000 + arguments[0]
        elif name == "nvmlDeviceGetMemoryInfo":
            into.total, into.free, into.used = 100 << 30, 60 << 30, 40 << 30
        else:
            return self._answer(arguments[0].value - 1000, name, arguments[1], into)
        return 0

    def _answer(self, index: int, name: str, argument: Any, into: Any) -> int:
        if index in self.lost:
            return LOST
        value = self.boards[index].get(name)
        if value is None:
            return NOT_SUPPORTED
        into.value = value[argument] if isinstance(value, dict) else value() if callable(value) else value
        assert isinstance(into, ctypes.c_uint | ctypes.c_ulonglong)
        return 0
