"""Did the GPUs run at the clocks they could, the same for every arm? Gates that only a machine with GPUs has.

A cap on power that a board reaches is its normal life under load and no fault. Heat, a power brake or the board's own
emergency come and go: an arm that met them was measured on another machine than one that did not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from artifacts.energy import DeviceEnergy, EnergyLog
from artifacts.run import Gate

SLOWDOWNS = frozenset({"hardware_slowdown", "hardware_thermal", "software_thermal", "power_brake"})
"""Of artifacts.nvml.THROTTLE_REASONS those that fail a run."""


def hardware_gates(log: EnergyLog | None) -> tuple[Gate, ...]:
    """None without a GPU that was read."""
    windows = [[d for d in w.devices if d.kind == "gpu"] for w in (log.windows if log else ())]
    return (_throttling(windows), _power_cap(windows)) if any(windows) else ()


def _throttling(windows: Sequence[Sequence[DeviceEnergy]]) -> Gate:
    slowed = [SLOWDOWNS.intersection(r for d in window for r in d.throttled) for window in windows]
    seen = sorted({reason.replace("_", " ") for reasons in slowed for reason in reasons})
    return Gate(
        name="throttling",
        observed=float(sum(map(bool, slowed))),
        limit=0.0,
        unit="windows",
        passed=not any(slowed),
        cause=f"A GPU lowered its clocks in a window ({', '.join(seen) or 'heat, power brake or hardware slowdown'}).",
        remedy="Cool the machine, lower the power cap below where it throttles, or wait between runs.",
    )


def _power_cap(windows: Sequence[Sequence[DeviceEnergy]]) -> Gate:
    devices = [device for window in windows for device in window]
    spans = [_span([d for d in devices if d.device == name]) for name in {d.device for d in devices}]
    known = [span for span in spans if span is not None]
    return Gate(
        name="power cap",
        observed=max(known, default=None),
        limit=0.0,
        unit="W",
        passed=not any(known),
        cause="A GPU's power cap was changed during the run, so the arms were measured on different machines.",
        remedy="Set the cap once (nvidia-smi -pl), keep others from it, and run again.",
    )


def _span(devices: Iterable[DeviceEnergy]) -> float | None:
    """Between the highest and the lowest cap at any edge, W; None where the board does not tell."""
    caps = [edge.power_cap_w for device in devices for edge in device.edges if edge.power_cap_w is not None]
    return max(caps) - min(caps) if caps else None
