"""The committed studies of the load test's statistics say what their pages and the documents claim."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest

from benchmarks import aa_control, interval_coverage, planted_slowdown
from benchmarks.pages import read_raw
from loadtest.power import MIN_BLOCKS


@pytest.mark.parametrize("study", [aa_control, interval_coverage, planted_slowdown], ids=lambda study: study.STEM.name)
def test_the_page_is_drawn_from_the_raw_data(study: ModuleType) -> None:
    assert study.STEM.with_suffix(".md").read_text(encoding="utf-8") == study.render(read_raw(study.STEM))


def test_the_published_interval_covers_where_blocks_are_symmetric() -> None:
    raw = read_raw(interval_coverage.STEM)
    rows = [r for r in raw["rows"] if "skewed" not in r["shape"] and r["blocks"] >= MIN_BLOCKS]
    assert len(rows) == 3 * 3
    assert min(r["covered"]["published"] for r in rows) >= interval_coverage.least(raw["samples"])
    assert all(r["covered"]["published"] > r["covered"]["bca_bootstrap"] for r in raw["rows"])


def test_the_control_contains_one_as_often_as_claimed() -> None:
    """Nine of nine are nine of ten, whatever a tenth would show."""
    runs = read_raw(aa_control.STEM)["runs"]
    assert len(runs) in (9, 10)
    assert aa_control.contained(runs, aa_control.SPEEDUPS[0]) >= 9


def test_a_control_that_differs_would_be_told() -> None:
    raw = read_raw(aa_control.STEM)
    moved = copy.deepcopy(raw)
    for run in moved["runs"][:2]:
        run["block_ratios"] = {m: [1.5 * r for r in ratios] for m, ratios in run["block_ratios"].items()}
    assert "**No**" in aa_control.render(moved)


def test_the_planted_slowdown_is_found() -> None:
    raw: dict[str, Any] = read_raw(planted_slowdown.STEM)
    found = [row[1] for row in raw["drawn"]]
    assert sum(found) / len(found) >= 0.95
    assert "**Yes**" in planted_slowdown.render(raw)
    missed = {**raw, "drawn": [[*row[:1], k % 10 != 0, *row[2:]] for k, row in enumerate(raw["drawn"])]}
    assert "**No**" in planted_slowdown.render(missed)
