"""The page of speeds: each number is the record's, verdicts are those of the claims, what failed is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.hardware import Hardware
from artifacts.study import CellRecord, SpeedAt
from laws.studies.records import read_study
from laws.studies.speed_page import speed_page, write_speed_page
from tests.laws.synthetic import World, cells_of_world, write_study

WORLD = World(
    models={"small": 1_000_000_000, "large": 14_000_000_000},
    methods=("ffn",),
    ratios=(0.5, 0.9),
    seeds=(0,),
    modes=("paper",),
    speed_gain=lambda params, r: 1 / (1 - 0.6 * r),
)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def row(quantity: str, speedup: float, values: tuple[float, float], unit: str, **more: float | None) -> SpeedAt:
    bounds = {"low": None, "high": None, **more}
    level = "headline concurrency 32"
    return SpeedAt(
        **{"mode": "serving", "level": level, "quantity": quantity, "speedup": speedup, "pairs": 4, "unit": unit},
        **bounds,
        base_value=values[0],
        value=values[1],
    )


SERVED = (
    row("output_tokens_per_s", 2.5, (1000, 2500), "tokens/s", low=2.4, high=2.6, control_low=0.99, control_high=1.02),
    row("tpot_p50_s", 2.5, (0.02, 0.008), "s", low=2.4, high=2.6),
    row("roofline_step_s", 2.8, (0.018, 0.0064), "s"),
    row("reached_of_roofline", 0.89, (0.9, 0.8), "1"),
    row("kv_capacity_tokens", 1.0, (131072, 131072), "tokens"),
    row("joules_per_token_gpu", 2.0, (0.5, 0.25), "J/token", low=1.9, high=2.1),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forward passes of all, one cell that was served, one level that failed its gates, one cell that failed."""
    made = write_study(WORLD, tmp_path / "my.study")
    for cell in cells_of_world(WORLD):
        if cell.model == "large" and cell.ratio == 0.9:
            measured = Hardware(name="a GPU", memory_bytes_per_s=4.3e12, flops_per_s=7.9e14, source="measured")
            left = ("decode concurrency 256: send_lag",)
            changes = {"speeds": (*cell.speeds, *SERVED), "hardware": measured, "left_out": left}
            save(made, cell.model_copy(update=changes))
        if cell.model == "small" and cell.ratio == 0.5:
            save(made, cell.model_copy(update={"status": "failed", "error": "no memory", "speeds": ()}))
    return made


def save(folder: Path, cell: CellRecord) -> None:
    cell.save(folder / "cells" / f"{cell.cell}.json")


def test_a_row_holds_the_records_numbers(folder: Path) -> None:
    page = speed_page(read_study(folder))
    (served,) = [line for line in page.splitlines() if line.startswith("| large | headline concurrency 32 |")]
    assert served.split(" | ")[2:] == [
        *("ffn", "0.9", "2.50× [2.40, 2.60]", "[0.99, 1.02]", "1,000 → 2,500", "2.80×", "20 ms → 8 ms", "–"),
        *("0.90 → 0.80", "–", "–", "131,072 → 131,072", "0.5 → 0.25 |"),
    ]
    passes = [line for line in page.splitlines() if line.startswith(("| large | forward", "| small | forward"))]
    assert len(passes) == 3, "one of four cells failed"
    assert "4.3 TB/s" in page and "790 TFLOP/s" in page


def test_verdicts_and_failures_are_named(folder: Path) -> None:
    page = speed_page(read_study(folder))
    claims = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| C")}
    assert set(claims) == {"C5", "C6", "C7", "C8", "C9"}
    c5 = [line for line in page.splitlines() if line.startswith("| C5")]
    assert len(c5) == 2 and all("**supported**" in line for line in c5), "both modes: 1 / (1 - 0.54) is more than 1.6"
    assert "**not testable here**" in claims["C8"] and "**not testable here**" in claims["C9"]
    assert "decode concurrency 256: send_lag" in page and ": no memory" in page
    assert page.index("The claims") < page.index("## Serving") < page.index("## Forward") < page.index("no memory")


def test_a_study_without_speeds_has_no_such_page(tmp_path: Path) -> None:
    folder = write_study(replace(WORLD, modes=()), tmp_path / "my.study")
    with pytest.raises(ConfigError, match="holds no speeds"):
        write_speed_page([folder], tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize("page", sorted(BENCHMARKS.glob("speedup_*.md")), ids=lambda path: path.stem)
def test_a_committed_page_is_drawn_from_the_committed_cells(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == speed_page(read_study(page.with_suffix("")))
