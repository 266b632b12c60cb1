"""From readings to joules per token: wraps, set-backs, silence, several devices, and the identities between figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from artifacts.energy import ENERGY_RATIOS, BoardState, DeviceEnergy, EnergyLog, Kind, WindowEnergy
from artifacts.measures import totals_in_windows
from artifacts.run import RequestRecord, Window
from loadtest.energy import MOST_WATTS, device_energy, idle_watts, summarise_energy, tokens_per_joule
from loadtest.power_meters import Reading
from loadtest.summary import compare_arms

MakeRecord = Callable[..., RequestRecord]
SECOND = 10**9


@dataclass(frozen=True)
class Device:
    """What `device_energy` must know of a meter."""

    device: str = "package-0"
    kind: Kind = "cpu"
    range_j: float | None = 1000.0

    def read(self, at_edge: bool) -> Reading:
        raise AssertionError("it is given its readings")


def readings(*points: tuple[float, float | None], sampled: bool = False) -> list[Reading]:
    """(time in s, joules or watts)."""
    field = "power_w" if sampled else "counter_j"
    return [Reading(at_ns=round(at_s * SECOND), **{field: value}) for at_s, value in points]


def over(points: list[Reading], device: Device | None = None, span_s: tuple[float, float] = (10, 12)) -> DeviceEnergy:
    return device_energy(device or Device(), points, (round(span_s[0] * SECOND), round(span_s[1] * SECOND)))


@pytest.mark.parametrize(
    ("points", "joules"),
    [
        pytest.param([(10, 500), (12, 600)], 100, id="the difference"),
        pytest.param([(10, 500), (11, 590), (12, 600)], 100, id="however it came about"),
        pytest.param([(10.01, 500), (12.11, 605)], 100, id="late readings have the same power"),
        pytest.param([(10, 950), (12, 50)], 100, id="over the counter's end"),
        pytest.param([(10, 950), (11, 50), (11.5, 990), (12, 40)], 1090, id="over it twice, seen at samples between"),
        pytest.param([(10, 500), (12, 500)], 0, id="nothing"),
    ],
)
def test_a_counter_gives_the_energy_of_the_span(points: list[tuple[float, float | None]], joules: float) -> None:
    used = over(readings(*points))
    assert used.joules == pytest.approx(joules)
    assert (used.method, used.fault) == ("counter", None)


@pytest.mark.parametrize(
    ("points", "device", "fault"),
    [
        pytest.param([(10, 500), (12, 490)], Device(range_j=None), "backwards", id="a counter that never wraps"),
        pytest.param(
            [(10, 500), (12, 400)], Device(range_j=50 * MOST_WATTS), "backwards", id="a wrap of more than it can draw"
        ),
        pytest.param([(10, 500), (11, None), (12, 600)], Device(), "vanished", id="silent in between"),
        pytest.param([(10, None), (12, None)], Device(), "vanished", id="silent throughout"),
        pytest.param([(10, 500), (12, None)], Device(), "vanished", id="silent at the end"),
        pytest.param([(10, 500)], Device(), "vanished", id="read once"),
        pytest.param([(10.3, 500), (12, 600)], Device(), "late", id="a tenth of the span too late"),
        pytest.param([(10, 500), (12.3, 600)], Device(), "late", id="at its end"),
    ],
)
def test_what_cannot_be_known_is_null_and_says_why(
    points: list[tuple[float, float | None]], device: Device, fault: str
) -> None:
    used = over(readings(*points), device)
    assert (used.joules, used.fault) == (None, fault)


def test_power_that_rises_evenly_is_integrated_exactly() -> None:
    """From 100 to 300 W over 2 s, at uneven times: 400 J."""
    points = readings(*[(10 + t, 100 + 100 * t) for t in (0, 0.1, 0.7, 1.5, 2)], sampled=True)
    used = over(points, Device("GPU 0", "gpu", None))
    assert used.joules == pytest.approx(400)
    assert used.method == "samples"


def test_the_edges_states_are_kept_and_what_throttled_between_them() -> None:
    states = [
        BoardState(power_cap_w=700, throttled=()),
        BoardState(throttled=("power_brake",)),
        BoardState(power_cap_w=650, throttled=("power_cap",)),
    ]
    points = [
        Reading(at_ns=round((10 + t) * SECOND), counter_j=t, state=state)
        for t, state in zip((0, 1, 2), states, strict=True)
    ]
    used = over(points, Device("GPU 0", "gpu", None))
    assert [edge.power_cap_w for edge in used.edges] == [700, 650]
    assert used.throttled == ("power_brake", "power_cap")


def device(kind: Kind, joules: float | None, name: str = "x") -> DeviceEnergy:
    return DeviceEnergy(device=name, kind=kind, joules=joules, method="counter", fault=None if joules else "vanished")


def test_devices_of_a_kind_are_added_up_and_kinds_are_not() -> None:
    window = WindowEnergy(
        arm=0, block=0, duration_s=1, devices=(device("gpu", 300), device("gpu", 200), device("cpu", 50))
    )
    assert (window.joules_of("gpu"), window.joules_of("cpu")) == (500, 50)
    lost = window.model_copy(update={"devices": (*window.devices, device("gpu", None))})
    assert (lost.joules_of("gpu"), lost.joules_of("cpu")) == (None, 50)
    assert window.model_copy(update={"devices": ()}).joules_of("gpu") is None


def log(joules: dict[tuple[int, int], float | None], **changes: Any) -> EnergyLog:
    """`joules` of a GPU by (arm, block), 20 W idle over 2 s."""
    values: dict[str, Any] = {
        "meters": "read",
        "idle": (device("gpu", 40),),
        "idle_s": 2,
        "windows": tuple(
            WindowEnergy(arm=arm, block=block, duration_s=1, devices=(device("gpu", used),))
            for (arm, block), used in joules.items()
        ),
    }
    return EnergyLog(**(values | changes))


def windows(arms: int, blocks: int) -> tuple[Window, ...]:
    return tuple(Window(arm=a, block=b, start_s=b, end_s=b + 1) for b in range(blocks) for a in range(arms))


def records(make_record: MakeRecord, per_block: dict[tuple[int, int], int]) -> list[RequestRecord]:
    """So many requests of 5 tokens in each (arm, block)."""
    return [
        make_record(block + 0.05 * k, arm=arm, block=block, index=k)
        for (arm, block), count in per_block.items()
        for k in range(count)
    ]


def test_joules_per_token_times_tokens_per_second_is_watts(make_record: MakeRecord) -> None:
    played = records(make_record, {(0, 0): 8, (0, 1): 12})
    spans = windows(1, 2)
    energy = summarise_energy(log({(0, 0): 90.0, (0, 1): 110.0}), ["a"], played, spans)
    assert energy is not None
    (arm,) = energy.arms
    tokens_per_s = totals_in_windows(played, [(w.start_s, w.end_s) for w in spans])["output_tokens_per_s"]
    assert (arm.joules, arm.output_tokens, arm.watts, arm.idle_watts) == (200, 100, 100, 20)
    assert arm.joules_per_token == pytest.approx(2)
    assert arm.joules_per_token * (tokens_per_s or 0) == pytest.approx(arm.watts)
    assert arm.above_idle_joules_per_token == pytest.approx((200 - 2 * 20) / 100)


def test_an_arm_pays_for_its_own_tokens_alone(make_record: MakeRecord) -> None:
    """Streams of another arm may still run in its lead-in: here they fill the same second."""
    played = records(make_record, {(0, 0): 8, (1, 0): 12})
    energy = summarise_energy(log({(0, 0): 80.0, (1, 0): 30.0}), ["a", "b"], played, windows(2, 1))
    assert energy is not None
    assert [(row.model, row.output_tokens, row.joules_per_token) for row in energy.arms] == [
        ("a", 40, pytest.approx(2)),
        ("b", 60, pytest.approx(0.5)),
    ]


def test_a_window_of_unknown_energy_takes_its_tokens_with_it(make_record: MakeRecord) -> None:
    played = records(make_record, {(0, 0): 8, (0, 1): 12})
    energy = summarise_energy(log({(0, 0): 80.0, (0, 1): None}), ["a"], played, windows(1, 2))
    assert energy is not None
    (arm,) = energy.arms
    assert (arm.windows, arm.windows_total, arm.output_tokens) == (1, 2, 40)
    assert arm.joules_per_token == pytest.approx(2)


def test_without_tokens_there_is_no_energy_of_one(make_record: MakeRecord) -> None:
    energy = summarise_energy(log({(0, 0): 80.0}), ["a"], [], windows(1, 1))
    assert energy is not None
    assert (energy.arms[0].watts, energy.arms[0].joules_per_token) == (80, None)
    assert energy.arms[0].above_idle_joules_per_token is None


def test_idle_power_is_unknown_where_a_device_was_silent_or_nobody_looked() -> None:
    assert idle_watts(log({}), "gpu") == 20
    assert idle_watts(log({}, idle=(device("gpu", 40), device("gpu", None))), "gpu") is None
    assert idle_watts(log({}, idle=(), idle_s=0), "gpu") is None
    assert idle_watts(log({}), "cpu") is None


@pytest.mark.parametrize("word", ["none", "forbidden", "remote"])
def test_a_machine_without_meters_has_a_word_and_no_rows(word: str) -> None:
    energy = summarise_energy(EnergyLog.parse({"meters": word}, "the test"), ["a"], [], windows(1, 1))
    assert energy is not None
    assert (energy.meters, energy.arms, energy.windows) == (word, (), ())
    assert summarise_energy(None, ["a"], [], ()) is None


def test_the_ratio_is_the_references_energy_per_token_over_the_models(make_record: MakeRecord) -> None:
    """The model answers 12 requests on 90 J where the reference answers 8 on 120 J, and one block has no energy."""
    played = records(make_record, {(a, b): (8, 12)[a] for a in (0, 1) for b in range(4)})
    used = {(a, b): (120.0 + b, 90.0)[a] for a in (0, 1) for b in range(3)} | {(0, 3): 120.0, (1, 3): None}
    (comparison,) = compare_arms(("dense", "small"), played, windows(2, 4), log(used))
    ratios = comparison.block_ratios[ENERGY_RATIOS["gpu"]]
    assert ratios == pytest.approx([((120 + b) / 40) / (90 / 60) for b in range(3)])
    estimate = comparison.ratios[ENERGY_RATIOS["gpu"]]
    assert estimate.n == 3
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low < 2.0165 < estimate.high
    assert {interval.method for interval in estimate.intervals} == {"paired_t", "bca_bootstrap"}
    assert ENERGY_RATIOS["cpu"] not in comparison.ratios
    (without,) = compare_arms(("dense", "small"), played, windows(2, 4))
    assert without.ratios == {k: v for k, v in comparison.ratios.items() if k not in ENERGY_RATIOS.values()}


def test_no_energy_and_no_tokens_make_no_ratio(make_record: MakeRecord) -> None:
    window = windows(1, 1)[0]
    played = records(make_record, {(0, 0): 8})
    assert tokens_per_joule(log({(0, 0): 80.0}), played, window) == {"energy_ratio_gpu": pytest.approx(0.5)}
    assert tokens_per_joule(log({(0, 0): 0.0}), played, window) == {}
    assert tokens_per_joule(log({(0, 0): 80.0}), [], window) == {}
    assert tokens_per_joule(None, played, window) == {}
