"""A driver's library as NVML's header describes it: two boards, of which the second has no energy counter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

NOT_SUPPORTED = 3
VALUES: dict[str, int | dict[int, int]] = {
    "nvmlDeviceGetPowerUsage": 512_345,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetClockInfo": {1: 1980, 2: 3201},
    "nvmlDeviceGetTemperature": {0: 61},
    "nvmlDeviceGetTotalEnergyConsumption": 123_456_789_012_345,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
}


class FakeNvml:
    """Writes through the pointer that it is given last, and returns a status."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            return self._call(name, *arguments)

        return called

    def _call(self, name: str, *arguments: Any) -> int:
        into = arguments[-1]._obj
        if name == "nvmlDeviceGetCount_v2":
            into.value = 2
        elif name == "nvmlDeviceGetHandleByIndex_v2":
            into.value = 1000 + arguments[0]
        elif name == "nvmlDeviceGetMemoryInfo":
            into.total, into.free, into.used = 100 << 30, 60 << 30, 40 << 30
        elif name == "nvmlDeviceGetTotalEnergyConsumption" and arguments[0].value == 1001:
            return NOT_SUPPORTED
        else:
            value = VALUES[name]
            into.value = value if isinstance(value, int) else value[arguments[1]]
        assert isinstance(into, ctypes.c_uint | ctypes.c_ulonglong | ctypes.c_void_p | ctypes.Structure)
        return 0
