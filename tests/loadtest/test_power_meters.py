"""Which meters a machine has, by powercap trees and boards as they are, and in a word why none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifacts import nvml as nvml_library
from artifacts.nvml import boards_of
from loadtest import power_meters
from loadtest.power_meters import POWERCAP_VARIABLE, BoardMeter, Reading, found, meters_here, zones_in
from tests.nvml import ENERGY, POWER, THROTTLING, VALUES, FakeNvml, without
from tests.powercap import zone

TREE = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "uncore",
    "intel-rapl:0:2": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
    "intel-rapl": "",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sockets with all that a kernel shows; no GPU driver."""
    monkeypatch.setattr(nvml_library, "LIBRARY", "libno-such-driver.so.1")
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path))
    for number, (folder, name) in enumerate(TREE.items()):
        zone(tmp_path / folder, name, joules=100 + number)
    return tmp_path


def test_packages_and_their_memory_are_read_and_nothing_twice(tree: Path) -> None:
    here = meters_here(served_here=True)
    assert here.word == "read"
    assert {m.device: (m.kind, m.read(at_edge=True).counter_j, m.range_j) for m in here.meters} == {
        "package-0": ("cpu", 100, 262143.328),
        "package-1": ("cpu", 104, 262143.328),
        "package-0 dram": ("cpu", 103, 262143.328),
        "package-1 dram": ("cpu", 105, 262143.328),
    }


def test_another_machines_energy_is_not_ours(tree: Path) -> None:
    assert meters_here(served_here=False) == power_meters.Found((), "remote")


def test_a_machine_without_a_tree_has_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tree / "nowhere"))
    assert meters_here(served_here=True) == power_meters.Found((), "none")


def test_a_counter_that_may_not_be_read_is_forbidden(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to all but root since Linux 5.10; root, who runs tests too, is told so by a stand-in."""
    for folder in tree.iterdir():
        (folder / "energy_uj").rename(folder / "closed")
        (folder / "energy_uj").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert meters_here(served_here=True) == power_meters.Found((), "forbidden")


def test_a_zone_that_goes_or_says_nonsense_is_silent(tree: Path) -> None:
    first = zones_in(tree)[0]
    assert first.read(at_edge=False).answered
    (tree / "intel-rapl:0" / "energy_uj").write_text("plenty\n")
    assert not first.read(at_edge=False).answered
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    assert not first.read(at_edge=False).answered


def test_a_zone_without_a_name_is_no_package(tree: Path) -> None:
    (tree / "intel-rapl:0" / "name").unlink()
    assert [z.device for z in zones_in(tree)] == ["package-1", "intel-rapl:0:2 dram", "package-1 dram"]


def test_a_zone_without_a_range_never_wraps(tree: Path) -> None:
    (tree / "intel-rapl:0" / "max_energy_range_uj").unlink()
    assert zones_in(tree)[0].range_j is None


def meters_of(nvml: FakeNvml) -> tuple[BoardMeter, ...]:
    return tuple(BoardMeter(board) for board in boards_of(nvml))


def test_a_board_tells_all_at_an_edge_and_little_in_between() -> None:
    board = meters_of(FakeNvml())[0]
    edge, between = board.read(at_edge=True), board.read(at_edge=False)
    assert (board.device, board.kind, board.range_j) == ("GPU 0", "gpu", None)
    assert (edge.counter_j, edge.power_w) == (123_456_789_012.345, None)
    assert edge.state is not None and between.state is not None
    assert (edge.state.power_cap_w, edge.state.temperature_c) == (700, 61)
    assert (edge.state.sm_clock_hz, edge.state.memory_clock_hz) == (1.98e9, 3.201e9)
    assert edge.state.throttled == between.state.throttled == ("hardware_thermal", "power_cap")
    assert between.state.power_cap_w is None
    assert edge.at_ns < between.at_ns


@pytest.mark.parametrize(
    ("boards", "read"),
    [
        pytest.param((VALUES,), {"GPU 0": ("counter",)}, id="with a counter"),
        pytest.param((without(ENERGY),), {"GPU 0": ("power",)}, id="without one, as in MIG mode"),
        pytest.param((without(ENERGY, POWER), VALUES), {"GPU 1": ("counter",)}, id="one that tells neither"),
        pytest.param((VALUES,) * 8, {f"GPU {k}": ("counter",) for k in range(8)}, id="eight"),
        pytest.param((), {}, id="a driver without boards"),
    ],
)
def test_boards_that_answer_are_meters(boards: tuple[dict[str, int], ...], read: dict[str, tuple[str]]) -> None:
    here = found(meters_of(FakeNvml(boards)))
    assert {m.device: _how(m.read(at_edge=False)) for m in here.meters} == read
    assert here.word == ("read" if read else "none")


def _how(reading: Reading) -> tuple[str, ...]:
    return ("counter",) * (reading.counter_j is not None) + ("power",) * (reading.power_w is not None)


def test_a_board_that_is_lost_is_silent_and_does_not_raise() -> None:
    nvml = FakeNvml()
    first, second = meters_of(nvml)
    nvml.lost.add(0)
    assert not first.read(at_edge=True).answered
    assert second.read(at_edge=True).power_w == pytest.approx(512.345)


def test_a_driver_without_throttle_reasons_is_not_taken_for_a_cool_one() -> None:
    state = meters_of(FakeNvml((without(THROTTLING),)))[0].read(at_edge=False).state
    assert state is not None
    assert state.throttled is None


def test_gpus_and_packages_are_read_together(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: FakeNvml())
    assert [meter.kind for meter in meters_here(served_here=True).meters] == ["gpu"] * 2 + ["cpu"] * 4
