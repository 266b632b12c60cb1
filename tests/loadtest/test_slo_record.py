"""The page on intervals is drawn from its raw data, the raw data follows from its script, and the texts from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import read_raw
from benchmarks.slo_intervals import STEM, render, verdicts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return read_raw(STEM)


def test_the_page_is_the_raw_data(raw: dict[str, Any]) -> None:
    assert render(raw) == STEM.with_suffix(".md").read_text(encoding="utf-8")
    assert raw["provenance"]["commit_dirty"] is False


def test_a_row_can_be_recomputed(raw: dict[str, Any]) -> None:
    row = next(r for r in raw["rows"] if (r["of_exact_rate"], r["window_s"]) == (1.0, 10.0))
    again = verdicts(raw["exact_rate_per_s"], 10.0, raw["repeats"])
    assert again == {"plain": row["plain"], "effective": row["effective"]}


def test_what_is_said_of_it_holds(raw: dict[str, Any]) -> None:
    exact = [r for r in raw["rows"] if r["of_exact_rate"] == 1.0]
    assert "four windows in ten" in README
    assert all(0.35 < r["plain"]["met"] < 0.45 for r in exact)
    assert "one in forty" in README
    assert all(r["effective"]["met"] <= 1 / 40 for r in exact)
    above = [r for r in raw["rows"] if r["of_exact_rate"] > 1]
    assert [r["effective"]["met"] for r in above] == [0] * len(above)
