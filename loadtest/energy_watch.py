"""When are the meters read, and who waits for it? At a window's edges and ten times a second in it, on a thread.

A driver may take milliseconds, in which an event loop would serve nobody. The thread holds the interpreter only
between the driver's calls, and is in the normal scheduling class while the streams are in the real-time one. Sampling
within the window catches throttling that is over before its end, and long windows in which a counter wraps twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter_ns

import gevent
from gevent.threadpool import ThreadPool

from artifacts.energy import DeviceEnergy, EnergyLog, WindowEnergy
from loadtest.energy import device_energy
from loadtest.power_meters import Found, Meter, Reading

SAMPLE_S = 0.1
IDLE_S = 2.0
PATIENCE_S = 2.0
"""A reading that takes longer never comes: a driver that lost its board holds callers for as long as it likes."""


class EnergyWatch:
    """The meters of one run. `rest` is called once before any load, `watch` in a greenlet beside each window."""

    def __init__(self, found: Found, idle_s: float = IDLE_S) -> None:
        self._found, self._idle_s = found, idle_s
        self._thread = ThreadPool(1)
        self._stuck = False
        self._idle: tuple[DeviceEnergy, ...] = ()
        self._windows: list[WindowEnergy] = []
        self._took_s: list[float] = []

    def rest(self) -> None:
        """Reads what the machine draws before the first load."""
        if self._found.meters:
            begin_ns = perf_counter_ns()
            self._idle = self._over((begin_ns, begin_ns + round(self._idle_s * 1e9)))

    def watch(self, arm: int, block: int, open_ns: int, close_ns: int) -> None:
        """From one time of `perf_counter_ns` to another."""
        if self._found.meters:
            devices = self._over((open_ns, close_ns))
            window = WindowEnergy(arm=arm, block=block, duration_s=(close_ns - open_ns) / 1e9, devices=devices)
            self._windows.append(window)

    def log(self) -> EnergyLog:
        return EnergyLog(
            meters=self._found.word,
            idle=self._idle,
            idle_s=self._idle_s if self._idle else 0.0,
            windows=tuple(self._windows),
            readings=len(self._took_s),
            reading_p50_s=median(self._took_s) if self._took_s else None,
            reading_max_s=max(self._took_s, default=None),
        )

    def _over(self, span_ns: tuple[int, int]) -> tuple[DeviceEnergy, ...]:
        rounds = []
        for at_ns in _sample_times(span_ns):
            gevent.sleep(max(0.0, (at_ns - perf_counter_ns()) / 1e9))
            at_edge = at_ns in span_ns
            if at_edge or perf_counter_ns() < span_ns[1]:  # those that a busy loop made late are left out
                rounds.append(self._round(at_edge))
        readings = zip(*rounds, strict=True)
        return tuple(
            device_energy(meter, each, span_ns) for meter, each in zip(self._found.meters, readings, strict=True)
        )

    def _round(self, at_edge: bool) -> Sequence[Reading]:
        """One reading of each meter; silence where the thread has not come back."""
        if not self._stuck:
            reading = self._thread.spawn(_read_all, self._found.meters, at_edge)
            try:
                done: tuple[list[Reading], float] = reading.get(timeout=PATIENCE_S)
            except gevent.Timeout:
                self._stuck = True
            else:
                self._took_s.append(done[1])
                return done[0]
        return [Reading(at_ns=perf_counter_ns())] * len(self._found.meters)


def _sample_times(span_ns: tuple[int, int]) -> list[int]:
    """Both edges, and between them a multiple of SAMPLE_S apart."""
    return [*range(span_ns[0], span_ns[1], round(SAMPLE_S * 1e9)), span_ns[1]]


def _read_all(meters: Sequence[Meter], at_edge: bool) -> tuple[list[Reading], float]:
    begun_ns = perf_counter_ns()
    readings = [meter.read(at_edge) for meter in meters]
    return readings, (perf_counter_ns() - begun_ns) / 1e9
