"""Energy on the page: a row for each arm, the ratio of its pair, and the boards' caps and clocks beside the ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artifacts.energy import ENERGY_RATIOS, BoardState, DeviceEnergy, Energy, WindowEnergy
from artifacts.run import Estimate, Level, RunManifest
from laws.energy import board_rows, energy_rows
from laws.energy_figures import energy_figure
from laws.figures import colour_of
from laws.findings import gather_findings
from laws.report import write_report
from laws.roofline import Hardware
from loadtest.energy import summarise_energy
from tests.laws.answers import Writer, controlled_run
from tests.laws.conftest import make_run

ONE = Level(concurrency=1)
RATIO = Estimate(value=1.25, low=1.2, high=1.3, n=8)
AGAIN = Estimate(value=1.01, n=8)


def board(joules: float | None, clocks_hz: tuple[float, float], name: str = "GPU 0", **changes: Any) -> DeviceEnergy:
    values: dict[str, Any] = {
        "device": name,
        "kind": "gpu",
        "joules": joules,
        "method": "counter",
        "edges": tuple(BoardState(power_cap_w=700, sm_clock_hz=clock, temperature_c=61) for clock in clocks_hz),
    }
    return DeviceEnergy(**(values | changes))


WINDOWS = tuple(
    WindowEnergy(arm=arm, block=block, duration_s=2, devices=(board(800 + 100 * arm, (1.2e9, 1.98e9 - 1e8 * block)),))
    for block in (0, 1)
    for arm in (0, 1)
)


def arms(*rows: dict[str, Any]) -> tuple[Any, ...]:
    base: dict[str, Any] = {
        "kind": "gpu",
        "windows": 8,
        "windows_total": 8,
        "joules": 5000,
        "output_tokens": 4000,
        "watts": 312.5,
        "idle_watts": 75.0,
        "joules_per_token": 1.25,
        "above_idle_joules_per_token": 0.0042,
    }
    return tuple(base | row for row in rows)


def with_energy(run: RunManifest, *rows: dict[str, Any]) -> RunManifest:
    energy = Energy.parse({"meters": "read", "windows": WINDOWS, "arms": arms(*rows)}, "the test")
    comparisons = tuple(
        c.model_copy(update={"ratios": c.ratios | {ENERGY_RATIOS["gpu"]: AGAIN if c.is_control else RATIO}})
        for c in run.comparisons
    )
    return run.model_copy(update={"energy": energy, "comparisons": comparisons})


PAIR = ({"arm": 0, "model": "dense"}, {"arm": 1, "model": "small", "windows": 7, "joules_per_token": 1.0})


def test_each_arm_has_a_row_and_every_one_but_the_reference_a_ratio() -> None:
    dense, small, again = energy_rows(
        "c", with_energy(controlled_run(ONE), *PAIR, {"arm": 2, "model": "dense", "idle_watts": None})
    )
    assert (dense.ratio, small.ratio, again.ratio) == (None, RATIO, AGAIN)
    assert (dense.control, small.control, again.control) == (False, False, True)
    assert (small.used.joules_per_token, small.used.windows, again.used.idle_watts) == (1.0, 7, None)


def test_without_a_reference_there_is_nothing_to_relate_to() -> None:
    run = with_energy(make_run(ONE), *PAIR).model_copy(update={"against": None, "comparisons": ()})
    assert [row.ratio for row in energy_rows("c", run)] == [None, None]


@pytest.mark.parametrize("energy", [None, Energy(meters="none")])
def test_runs_without_meters_have_no_rows(energy: Energy | None) -> None:
    run = make_run(ONE).model_copy(update={"energy": energy})
    assert energy_rows("c", run) == board_rows("c", run) == ()


def test_a_board_is_told_from_its_lowest_to_its_highest() -> None:
    (row,) = board_rows("c", with_energy(make_run(ONE), *PAIR))
    assert (row.device, row.power_cap_w, row.temperature_c) == ("GPU 0", (700, 700), (61, 61))
    assert row.sm_clock_hz == (1.2e9, 1.98e9)
    assert (row.memory_clock_hz, row.throttled, row.sampled) == (None, (), False)


def test_boards_are_told_apart_and_packages_are_none() -> None:
    devices = (
        board(1, (1e9, 1e9)),
        board(1, (2e9, 2e9), "GPU 1", method="samples", throttled=("power_brake", "power_cap")),
        DeviceEnergy(device="package-0", kind="cpu", joules=1, method="counter"),
    )
    energy = Energy(meters="read", windows=(WindowEnergy(arm=0, block=0, duration_s=1, devices=devices),))
    first, second = board_rows("c", make_run(ONE).model_copy(update={"energy": energy}))
    assert (first.sm_clock_hz, first.sampled) == ((1e9, 1e9), False)
    assert (second.sm_clock_hz, second.sampled) == ((2e9, 2e9), True)
    assert second.throttled == ("power_brake", "power_cap")


def test_the_page_shows_energy_beside_speed_and_clocks_beside_the_ceiling(run_folder: Writer, tmp_path: Path) -> None:
    Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated").save(tmp_path / "hardware.json")
    folder = run_folder("r", with_energy(make_run(ONE), *PAIR))
    write_report([folder], tmp_path / "report.html", tmp_path / "hardware.json")
    page = (tmp_path / "report.html").read_text()
    speed, energy, quality, ceiling = (
        page.index(f"<h2>{title}") for title in ("Speed, level", "Energy, level", "What it costs", "The ceiling")
    )
    assert speed < energy < quality < ceiling
    for shown in ("1.25× [1.20, 1.30]", "<td>1.25 J</td>", "4.2 mJ", "312 W", "75 W", "7 of 8", "1.2 GHz to 1.98 GHz"):
        assert shown in page[energy:quality], shown
    assert "GPU 0 at concurrency 1: power cap 700 W, SM clock from 1.2 GHz" in page[ceiling:]


def test_a_page_without_data_has_no_table_of_it(run_folder: Writer, tmp_path: Path) -> None:
    write_report([run_folder("r", make_run(ONE))], tmp_path / "report.html")
    assert "Energy, level" not in (tmp_path / "report.html").read_text()


def test_the_picture_has_a_line_per_model_and_kind(run_folder: Writer) -> None:
    folders = [run_folder(f"c{n}", with_energy(make_run(Level(concurrency=n)), *PAIR)) for n in (1, 4)]
    findings = gather_findings(folders, None)
    figure = energy_figure(findings)
    assert figure is not None
    assert {line.name: list(line.y) for line in figure.data} == {"dense": [1.25, 1.25], "small": [1.0, 1.0]}
    assert list(figure.data[0].x) == ["concurrency 1", "concurrency 4"]
    assert [line.line.color for line in figure.data] == [colour_of(m, findings) for m in ("dense", "small")]
    both = with_energy(make_run(ONE), *PAIR, {"arm": 0, "model": "dense", "kind": "cpu", "joules_per_token": 0.1})
    figure = energy_figure(gather_findings([run_folder("both", both)], None))
    assert figure is not None
    assert [line.name for line in figure.data] == ["dense, GPU", "small, GPU", "dense, CPU"]


def test_a_control_and_a_row_without_tokens_are_not_drawn(run_folder: Writer) -> None:
    silent = ({"arm": 0, "model": "dense", "joules_per_token": None}, {"arm": 2, "model": "dense"})
    run = with_energy(controlled_run(ONE), *silent)
    assert energy_figure(gather_findings([run_folder("r", run)], None)) is None
    assert energy_figure(gather_findings([run_folder("bare", make_run(ONE))], None)) is None


def test_the_reports_numbers_are_the_runs(run_folder: Writer) -> None:
    run = with_energy(make_run(ONE), *PAIR)
    findings = gather_findings([run_folder("r", run)], None)
    assert run.energy is not None
    assert [row.used for row in findings.energy] == list(run.energy.arms)
    assert findings.boards == board_rows("concurrency 1", run)
    assert summarise_energy(run.energy, (), (), ()) == run.energy.model_copy(update={"arms": ()})
