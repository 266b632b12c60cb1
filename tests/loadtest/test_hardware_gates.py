"""Heat and brakes fail a run, a board at its cap does not; a machine without a GPU is not asked."""

from __future__ import annotations

import pytest

from artifacts.energy import BoardState, DeviceEnergy, EnergyLog, WindowEnergy
from artifacts.nvml import THROTTLE_REASONS
from artifacts.run import Gate
from loadtest.hardware_gates import SLOWDOWNS, hardware_gates

CAPS = (700.0, 700.0)


def board(
    throttled: tuple[str, ...] = (), caps: tuple[float | None, float | None] = CAPS, name: str = "GPU 0"
) -> DeviceEnergy:
    edges = tuple(BoardState(power_cap_w=cap) for cap in caps)
    return DeviceEnergy(device=name, kind="gpu", joules=1, method="counter", edges=edges, throttled=throttled)


def gates(*windows: tuple[DeviceEnergy, ...]) -> dict[str, Gate]:
    played = tuple(
        WindowEnergy(arm=k % 2, block=k // 2, duration_s=1, devices=devices) for k, devices in enumerate(windows)
    )
    return {gate.name: gate for gate in hardware_gates(EnergyLog(meters="read", windows=played))}


def test_a_quiet_board_passes_both() -> None:
    found = gates((board(),), (board(),))
    assert {name: (gate.observed, gate.passed) for name, gate in found.items()} == {
        "throttling": (0, True),
        "power cap": (0, True),
    }


@pytest.mark.parametrize("reason", sorted(THROTTLE_REASONS))
def test_every_slowdown_but_the_power_cap_fails_the_run(reason: str) -> None:
    gate = gates((board(),), (board((reason,)),), (board((reason, "power_cap")),))["throttling"]
    assert gate.passed == (reason not in SLOWDOWNS) == (reason == "power_cap")
    assert gate.observed == (2 if reason in SLOWDOWNS else 0)
    assert gate.passed or reason.replace("_", " ") in gate.cause


def test_a_board_that_throttles_beside_one_that_does_not_is_seen() -> None:
    found = gates((board(), board(("hardware_thermal",), name="GPU 1")))
    assert (found["throttling"].observed, found["power cap"].passed) == (1, True)


@pytest.mark.parametrize(
    ("windows", "observed"),
    [
        pytest.param([(board(),), (board(caps=(650, 650)),)], 50, id="between arms"),
        pytest.param([(board(caps=(700, 600)),), (board(),)], 100, id="inside a window"),
        pytest.param([(board(), board(caps=(300, 300), name="GPU 1"))] * 2, 0, id="two boards, each with its own"),
        pytest.param([(board(caps=(None, None)),)] * 2, None, id="a board that does not tell"),
    ],
)
def test_a_changed_power_cap_fails_the_run(windows: list[tuple[DeviceEnergy, ...]], observed: float | None) -> None:
    gate = gates(*windows)["power cap"]
    assert gate.observed == observed
    assert gate.passed == (not observed)


def test_without_a_gpu_there_are_no_such_gates() -> None:
    package = DeviceEnergy(device="package-0", kind="cpu", joules=1, method="counter")
    assert gates((package,)) == {}
    assert hardware_gates(None) == ()
    assert hardware_gates(EnergyLog(meters="remote")) == ()


def test_each_says_cause_and_remedy() -> None:
    assert all(gate.cause.endswith(".") and gate.remedy.endswith(".") for gate in gates((board(),)).values())
