"""What did a token cost in joules, beside which reference? And at which clocks and caps did the GPUs run meanwhile?"""

from __future__ import annotations

from collections.abc import Iterable

from artifacts.document import Document
from artifacts.energy import ENERGY_RATIOS, ArmEnergy, BoardState, DeviceEnergy
from artifacts.run import Estimate, RunManifest


class EnergyRow(Document):
    """One arm at one level. `ratio` is joules per token of the reference / of the arm; null for the reference."""

    level: str
    control: bool
    used: ArmEnergy
    ratio: Estimate | None


class BoardRow(Document):
    """One GPU over all windows of a level: (lowest, highest) at their edges; null is what it does not tell."""

    level: str
    device: str
    power_cap_w: tuple[float, float] | None
    sm_clock_hz: tuple[float, float] | None
    memory_clock_hz: tuple[float, float] | None
    temperature_c: tuple[float, float] | None
    throttled: tuple[str, ...]
    sampled: bool


def energy_rows(label: str, run: RunManifest) -> tuple[EnergyRow, ...]:
    """One row per arm and kind of device, the control included; none for runs without meters."""
    used = run.energy.arms if run.energy else ()
    return tuple(
        EnergyRow(
            level=label,
            control=row.model in [summary.model for summary in run.arms[: row.arm]],
            used=row,
            ratio=_ratio(run, row),
        )
        for row in used
    )


def _ratio(run: RunManifest, row: ArmEnergy) -> Estimate | None:
    """A run with a reference compares every other arm with it, in order."""
    if run.against is None or row.arm == 0 or row.arm > len(run.comparisons):
        return None
    return run.comparisons[row.arm - 1].ratios.get(ENERGY_RATIOS[row.kind])


def board_rows(label: str, run: RunManifest) -> tuple[BoardRow, ...]:
    """One row per GPU, in the order of their numbers."""
    windows = run.energy.windows if run.energy else ()
    seen: dict[str, list[DeviceEnergy]] = {}
    for device in (device for window in windows for device in window.devices if device.kind == "gpu"):
        seen.setdefault(device.device, []).append(device)
    return tuple(_board_row(label, name, devices) for name, devices in seen.items())


def _board_row(label: str, name: str, devices: list[DeviceEnergy]) -> BoardRow:
    edges = [edge for device in devices for edge in device.edges]
    return BoardRow(
        level=label,
        device=name,
        power_cap_w=_span(edges, "power_cap_w"),
        sm_clock_hz=_span(edges, "sm_clock_hz"),
        memory_clock_hz=_span(edges, "memory_clock_hz"),
        temperature_c=_span(edges, "temperature_c"),
        throttled=tuple(sorted({reason for device in devices for reason in device.throttled})),
        sampled=any(device.method == "samples" for device in devices),
    )


def _span(edges: Iterable[BoardState], field: str) -> tuple[float, float] | None:
    told = [value for edge in edges if (value := getattr(edge, field)) is not None]
    return (min(told), max(told)) if told else None
