"""Read when, by whom, and at whose expense? Meters that follow the clock, throttle for a moment, hang, or take long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from time import perf_counter_ns
from typing import Any

import gevent
import pytest

from artifacts.energy import BoardState, EnergyLog, Kind
from artifacts.nvml import boards_of
from loadtest import energy_watch
from loadtest.conductor import Conductor
from loadtest.energy_watch import EnergyWatch
from loadtest.plan import Plan
from loadtest.power_meters import BoardMeter, Found, Meter, Reading
from tests.loadtest.plans import small_plan
from tests.nvml import ENERGY, POWER, FakeNvml, without

WATTS = 120.0


@dataclass
class Clocked:
    """Counts WATTS; `extra` happens at each reading, by its number."""

    device: str = "GPU 0"
    kind: Kind = "gpu"
    range_j: float | None = None
    extra: Callable[[int], BoardState | None] = lambda number: None
    edges: list[bool] = field(default_factory=list)

    def read(self, at_edge: bool) -> Reading:
        self.edges.append(at_edge)
        state = self.extra(len(self.edges))
        now_ns = perf_counter_ns()
        return Reading(at_ns=now_ns, counter_j=now_ns * 1e-9 * WATTS, state=state)


def watched(*meters: Meter, window_s: float = 0.45, idle_s: float = 0.3) -> EnergyLog:
    watch = EnergyWatch(Found(meters, "read"), idle_s)
    if idle_s:
        watch.rest()
    begin_ns = perf_counter_ns() + 5 * 10**6
    watch.watch(1, 2, begin_ns, begin_ns + round(window_s * 1e9))
    return watch.log()


def test_a_window_has_its_energy_and_idle_its_own() -> None:
    log = watched(Clocked(), Clocked(device="GPU 1"))
    (window,) = log.windows
    assert (window.arm, window.block, window.duration_s) == (1, 2, pytest.approx(0.45))
    assert window.joules_of("gpu") == pytest.approx(2 * WATTS * 0.45)
    assert [d.joules for d in log.idle] == pytest.approx([WATTS * 0.3] * 2)
    assert (log.meters, log.idle_s) == ("read", 0.3)


def test_both_edges_are_read_in_full_and_five_samples_in_between() -> None:
    meter = Clocked()
    log = watched(meter)
    begin = meter.edges.index(True, 1) + 1
    idle, window = meter.edges[:begin], meter.edges[begin:]
    assert (idle[0], idle[-1]) == (True, True)
    assert (window[0], window[-1]) == (True, True)
    assert 2 <= window.count(False) <= 4  # at 0.1, 0.2, 0.3 and 0.4 s, unless the machine was elsewhere
    assert log.readings == len(meter.edges)
    assert log.reading_p50_s is not None and log.reading_max_s is not None
    assert 0 < log.reading_p50_s <= log.reading_max_s


def test_throttling_that_is_over_before_the_end_is_seen() -> None:
    held = {2: ("power_brake",)}
    log = watched(Clocked(extra=lambda number: BoardState(throttled=held.get(number, ()))), idle_s=0)
    (device,) = log.windows[0].devices
    assert device.throttled == ("power_brake",)
    assert [edge.throttled for edge in device.edges] == [(), ()]


def test_without_meters_nobody_waits_and_the_word_is_kept() -> None:
    begun_s = time.perf_counter()
    watch = EnergyWatch(Found((), "remote"))
    watch.rest()
    watch.watch(0, 0, perf_counter_ns(), perf_counter_ns() + 10**12)
    assert watch.log() == EnergyLog(meters="remote")
    assert time.perf_counter() - begun_s < 1


def test_a_board_without_a_counter_is_sampled_and_says_so() -> None:
    board = without(ENERGY) | {POWER: lambda: 300_000}
    log = watched(*(BoardMeter(b) for b in boards_of(FakeNvml((board,)))))
    (device,) = log.windows[0].devices
    assert (device.method, device.joules) == ("samples", pytest.approx(300 * 0.45))


def test_a_board_that_vanishes_costs_its_own_windows_energy_and_no_other() -> None:
    nvml = FakeNvml(({ENERGY: lambda: perf_counter_ns() // 10**6},) * 2)
    watch = EnergyWatch(Found(tuple(BoardMeter(b) for b in boards_of(nvml)), "read"))
    for block in (0, 1):
        begin_ns = perf_counter_ns()
        watch.watch(0, block, begin_ns, begin_ns + 4 * 10**8)
        nvml.lost.add(1)
    first, second = watch.log().windows
    assert first.joules_of("gpu") == pytest.approx(2 * 0.4, rel=0.05)
    assert [(d.joules is None, d.fault) for d in second.devices] == [(False, None), (True, "vanished")]
    assert second.joules_of("gpu") is None


def test_a_driver_that_hangs_holds_nobody_up_and_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_watch, "PATIENCE_S", 0.1)
    hanging, asked = Event(), []

    def hang(number: int) -> None:
        asked.append(number)
        if number == 2:
            hanging.wait()

    try:
        log = watched(Clocked(extra=hang), idle_s=0)
    finally:
        hanging.set()
    assert asked == [1, 2]
    assert log.windows[0].devices[0].fault == "vanished"


def test_the_loop_does_not_wait_for_a_slow_driver() -> None:
    """Each reading takes 60 ms of sleep; who wakes every 5 ms in the same loop is not late by it."""
    ticks: list[float] = []

    def tick() -> None:
        while True:
            begun_s = time.perf_counter()
            gevent.sleep(0.005)
            ticks.append(time.perf_counter() - begun_s)

    ticker = gevent.spawn(tick)
    log = watched(Clocked(extra=lambda number: time.sleep(0.06)))
    ticker.kill()
    assert log.reading_p50_s is not None
    assert log.reading_p50_s >= 0.06
    assert sorted(ticks)[len(ticks) // 2] < 0.03


class _Silent:
    """Answers nobody: the plan is about windows."""

    def send(self, body: bytes, scheduled_ns: int) -> Any:
        from loadtest.exchange import Exchange

        gevent.sleep(0.05)
        return Exchange(scheduled_ns, sent_ns=perf_counter_ns(), done_ns=perf_counter_ns())


def test_the_conductor_reads_every_window_of_its_plan() -> None:
    plan: Plan = small_plan(blocks=1, window_s=0.5, lead_in_s=0.1)
    energy = EnergyWatch(Found((Clocked(),), "read"), idle_s=0.05)
    _, outcome = Conductor(plan, _Silent().send, lambda *_: None, lambda _: None, energy=energy).play()
    assert outcome.energy is not None
    assert [(w.arm, w.block) for w in outcome.energy.windows] == [(w.arm, w.block) for w in outcome.windows]
    assert [w.joules_of("gpu") for w in outcome.energy.windows] == pytest.approx([WATTS * 0.5] * 2)


def test_a_process_that_leaves_the_meters_to_another_says_nothing() -> None:
    plan: Plan = small_plan(blocks=1, window_s=0.05, lead_in_s=0)
    _, outcome = Conductor(plan, _Silent().send, lambda *_: None, lambda _: None).play()
    assert outcome.energy is None
