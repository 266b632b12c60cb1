"""What a load test drew from the machine it ran on: joules in its windows, watts, and what they come to per token.

Two kinds of devices, never added up: GPUs are whole boards, CPUs are packages with their memory. Both hold all that
ran on them: engines that idle beside the one that is measured, the load client, other people's work.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from artifacts.document import Document

Kind = Literal["gpu", "cpu"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu")

ENERGY_RATIOS: dict[Kind, str] = {"gpu": "energy_ratio_gpu", "cpu": "energy_ratio_cpu"}
"""Names of the paired ratios in a comparison: joules per token of the reference / of the model."""

Meters = Literal["read", "none", "forbidden", "remote"]
Fault = Literal["vanished", "backwards", "late"]


class BoardState(Document):
    """A GPU at one edge of a window. Null is what the board cannot say."""

    power_cap_w: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = Field(default=None, description="keys: artifacts.nvml.THROTTLE_REASONS")


class DeviceEnergy(Document):
    """One device over one span. `joules` is the mean power between its first and last reading times the span.

    It is null where a `fault` keeps it from being known: the device stopped answering, its counter went backwards, or a
    reading was late by more than a tenth of the span.
    """

    device: str
    kind: Kind
    joules: float | None
    method: Literal["counter", "samples"] = Field(description="the device's own counter, or power sampled and added up")
    fault: Fault | None = None
    edges: tuple[BoardState, ...] = Field(default=(), description="of a GPU: at the span's beginning and at its end")
    throttled: tuple[str, ...] = Field(default=(), description="reasons seen at any reading in the span")


class WindowEnergy(Document):
    """All devices over one measured window; `arm` and `block` are the window's."""

    arm: int
    block: int
    duration_s: float
    devices: tuple[DeviceEnergy, ...]

    def joules_of(self, kind: Kind) -> float | None:
        """All devices of the kind together; null where there is none, or one is not known."""
        each = [device.joules for device in self.devices if device.kind == kind]
        known = [joules for joules in each if joules is not None]
        return sum(known) if each and len(known) == len(each) else None


class EnergyLog(Document):
    """What one process read while it played: the player hands it to the runner.

    `idle` is from before the first load, the models in memory. `reading_*` say what reading took, on its own thread.
    """

    meters: Meters
    idle: tuple[DeviceEnergy, ...] = ()
    idle_s: float = 0.0
    windows: tuple[WindowEnergy, ...] = ()
    readings: int = 0
    reading_p50_s: float | None = None
    reading_max_s: float | None = None


class ArmEnergy(Document):
    """One arm and kind of device, over the `windows` of it whose energy is known.

    `joules_per_token` is energy in the windows / output tokens in the windows. `above_idle` is the same with
    `idle_watts` taken off the power; null where idle power is not known.
    """

    arm: int
    model: str
    kind: Kind
    windows: int
    windows_total: int
    joules: float
    output_tokens: float
    watts: float
    idle_watts: float | None
    joules_per_token: float | None
    above_idle_joules_per_token: float | None


class Energy(EnergyLog):
    """Energy in `run.json`. `meters`: they were read; there are none here; their files may not be read by this user;
    or the endpoint is on another machine, whose energy nobody here can read."""

    arms: tuple[ArmEnergy, ...] = ()
