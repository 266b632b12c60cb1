"""The committed table is one that compress reads, and follows from what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.latency import LatencyTable
from compressors.allocation.opening import open_target
from compressors.plan import LayerBudget
from compressors.source import open_source
from laws.decode_law import Ladder, solve
from tests.prunebench.conftest import MODEL

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
STEM = FOLDER / "latency_demo_cpu_202611"
LADDER = Ladder(layers=8, kv_groups=(1, 2, 3, 4), ffn_channels=(192, 288, 384, 480, 576, 672, 768))


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return LatencyTable.load(STEM.with_suffix(".json"))


def test_the_entries_follow_from_what_was_measured(table: LatencyTable) -> None:
    fixed_s, entries = solve(LADDER, table.measured)
    assert (fixed_s, entries) == (table.fixed_s, table.entries)
    assert table.provenance is not None and table.provenance.commit_dirty is False


def test_compress_reads_it(table: LatencyTable) -> None:
    target = open_target(open_source(str(MODEL)), "latency", 0.1, ("ffn", "kv"), 1, STEM.with_suffix(".json"))
    dense = (LayerBudget(kv_groups=4, ffn_channels=768),) * 8
    assert target.costs.of(dense) == pytest.approx(table.step_s(LADDER.shape()))
    assert target.costs.sees("ffn") and target.costs.sees("kv")
