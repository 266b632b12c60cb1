"""Which energy meters does this machine have, and what do they say now? GPUs by NVML, CPU packages by RAPL.

Only what counts once is read: a package holds its cores and its graphics, `psys` holds the packages; memory is apart.
Reading blocks for as long as driver or kernel take, so it is done on a thread (see energy_watch).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Protocol

from artifacts.energy import BoardState, Kind, Meters
from artifacts.nvml import (
    MEMORY_CLOCK_HZ,
    POWER_CAP_W,
    POWER_W,
    SM_CLOCK_HZ,
    TEMPERATURE_C,
    Board,
    boards_of,
    installed_nvml,
)

POWERCAP_VARIABLE = "PRUNEBENCH_POWERCAP"
"""Where the kernel's powercap tree is, if not in its usual place: a container sees the host's only if it is mounted."""

_POWERCAP = "/sys/class/powercap"
_PACKAGE, _MEMORY = "package-", "dram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One device at one moment, `at_ns` of `perf_counter_ns`. All null: the device did not answer.

    `counter_j` only ever grows, up to the meter's `range_j` and from 0 again; `power_w` is for devices without one.
    """

    at_ns: int
    counter_j: float | None = None
    power_w: float | None = None
    state: BoardState | None = None

    @property
    def answered(self) -> bool:
        return self.counter_j is not None or self.power_w is not None


class Meter(Protocol):
    """One device. `range_j` is where its counter begins anew, None where it never does."""

    @property
    def device(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def range_j(self) -> float | None: ...

    def read(self, at_edge: bool) -> Reading:
        """`at_edge`: with everything the device tells, else only what may not be missed between two edges."""
        ...


@dataclass(frozen=True, slots=True)
class BoardMeter:
    """A GPU: its counter and its power, so that a board without a counter is not lost."""

    board: Board
    kind: Kind = "gpu"
    range_j: float | None = None

    @property
    def device(self) -> str:
        return f"GPU {self.board.index}"

    def read(self, at_edge: bool) -> Reading:
        """The time is that of the counter: the rest is asked after it and may take its time."""
        begun_ns = perf_counter_ns()
        counter_j = self.board.energy_joules()
        at_ns = (begun_ns + perf_counter_ns()) // 2
        power_w = self.board.number(POWER_W) if counter_j is None else None
        return Reading(at_ns=at_ns, counter_j=counter_j, power_w=power_w, state=self._state(at_edge))

    def _state(self, at_edge: bool) -> BoardState:
        held = self.board.throttled()
        throttled = None if held is None else tuple(sorted(held))
        if not at_edge:
            return BoardState(throttled=throttled)
        return BoardState(
            power_cap_w=self.board.number(POWER_CAP_W),
            sm_clock_hz=self.board.number(SM_CLOCK_HZ),
            memory_clock_hz=self.board.number(MEMORY_CLOCK_HZ),
            temperature_c=self.board.number(TEMPERATURE_C),
            throttled=throttled,
        )


@dataclass(frozen=True, slots=True)
class ZoneMeter:
    """A zone of the kernel's powercap tree, counted in microjoules."""

    folder: Path
    device: str
    range_j: float | None
    kind: Kind = "cpu"

    def read(self, at_edge: bool) -> Reading:
        begun_ns = perf_counter_ns()
        counter_j = _joules(self.folder / "energy_uj")
        return Reading(at_ns=(begun_ns + perf_counter_ns()) // 2, counter_j=counter_j)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to read, and in one word why it is nothing."""

    meters: tuple[Meter, ...]
    word: Meters


def meters_here(served_here: bool) -> Found:
    """Every GPU and CPU package of this machine that answers now; none if what is measured runs on another."""
    if not served_here:
        return Found((), "remote")
    zones = zones_in(Path(os.environ.get(POWERCAP_VARIABLE, _POWERCAP)))
    return found((*(BoardMeter(board) for board in boards_of(installed_nvml())), *zones))


def found(meters: Iterable[Meter]) -> Found:
    """Those that answer. Since 2020 Linux shows package energy to root alone: that is `forbidden`, not `none`."""
    candidates = tuple(meters)
    answering = tuple(meter for meter in candidates if meter.read(at_edge=True).answered)
    if answering:
        return Found(answering, "read")
    return Found((), "forbidden" if any(map(_is_locked, candidates)) else "none")


def _is_locked(meter: Meter) -> bool:
    return isinstance(meter, ZoneMeter) and not os.access(meter.folder / "energy_uj", os.R_OK)


def zones_in(root: Path) -> tuple[ZoneMeter, ...]:
    """Packages and their memory in `intel-rapl:*`, which AMD's processors use as well; by the kernel's numbering."""
    named = [(folder, _name(folder)) for folder in sorted(root.glob("intel-rapl:*"))]
    packages = {folder.name: name for folder, name in named if name.startswith(_PACKAGE)}
    memories = [(f, packages.get(f.name.rpartition(":")[0], f.name)) for f, name in named if name == _MEMORY]
    return (
        *(_zone(root / folder, name) for folder, name in packages.items()),
        *(_zone(folder, f"{package} {_MEMORY}") for folder, package in memories),
    )


def _zone(folder: Path, device: str) -> ZoneMeter:
    return ZoneMeter(folder, device, _joules(folder / "max_energy_range_uj"))


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _joules(file: Path) -> float | None:
    """None for a file that is gone, closed to this user, or holds no number."""
    try:
        return int(file.read_bytes()) / 1e6
    except (OSError, ValueError):
        return None
