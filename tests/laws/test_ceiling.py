"""Is the card arithmetic on the manifest, and does measured / ceiling say what it says? And is a steady state told?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from artifacts.lengths import TraceTokens
from artifacts.run import Level, LittlesLaw, RunManifest, Steadiness, Workload
from laws.ceiling import card_table, ceiling_rows, mean_context_tokens, reached_table, served_manifests
from laws.flow import flow_rows
from laws.hardware import cache_file
from laws.report import write_report
from laws.roofline import Hardware
from tests.laws.answers import Writer
from tests.laws.conftest import make_run
from tests.manifests import DENSE, SMALL, small_manifest

MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")
WORKLOAD = Workload(prompt_tokens=10, output_tokens=20)
VARIANTS = {"dense": small_manifest(DENSE), "small": small_manifest(SMALL)}


def test_the_card_has_every_variant_at_every_level() -> None:
    levels = (Level(concurrency=1), Level(concurrency=4))
    header, *rows = card_table(VARIANTS, MACHINE, levels, WORKLOAD)
    assert len({len(row) for row in (header, *rows)}) == 1
    assert [(row[0], row[1]) for row in rows] == [
        ("concurrency 1", "dense"),
        ("concurrency 1", "small"),
        ("concurrency 4", "dense"),
        ("concurrency 4", "small"),
    ]
    # 4 sequences of 20 tokens with 4 bytes each beside 400 bytes of weights, at 1000 bytes/s
    assert rows[2][2:] == ["400 B", "4 B", "320 B", "720 ms", "memory", "6"]


def test_an_open_loop_has_the_bound_that_no_batch_beats() -> None:
    (open_row,) = card_table(
        {"dense": VARIANTS["dense"]}, MACHINE, (Level(rate_per_s=3, arrivals="poisson"),), WORKLOAD
    )[1:]
    (alone,) = card_table({"dense": VARIANTS["dense"]}, MACHINE, (Level(concurrency=1),), WORKLOAD)[1:]
    assert open_row[4:7] == alone[4:7]
    assert open_row[-1] == ""


def test_compute_bounds_a_large_batch() -> None:
    slow = MACHINE.model_copy(update={"flops_per_s": 100.0})
    (row,) = card_table({"dense": VARIANTS["dense"]}, slow, (Level(concurrency=10),), WORKLOAD)[1:]
    assert row[5:] == ["20 s", "compute", "0"]


def test_lengths_of_unknown_mean_have_no_card() -> None:
    replayed = Workload(prompt_tokens=TraceTokens(), output_tokens=TraceTokens())
    assert mean_context_tokens(replayed) is None
    assert len(card_table(VARIANTS, MACHINE, (Level(concurrency=1),), replayed)) == 1
    assert mean_context_tokens(WORKLOAD) == 20


def test_reached_is_measured_over_ceiling() -> None:
    run = make_run(Level(concurrency=4))
    rows = ceiling_rows(run, run.arms, served_manifests(run.served), MACHINE)
    dense = rows[0]
    assert (dense.step_s, dense.ceiling_tokens_per_s) == (pytest.approx(0.72), pytest.approx(4 / 0.72))
    assert dense.measured_tpot_s == pytest.approx(0.01)
    assert dense.reached_ratio == pytest.approx(100 * 0.72 / 4)
    assert rows[1].predicted_speedup == pytest.approx(0.72 / 0.52)
    table = reached_table(rows)
    assert len({len(row) for row in table}) == 1
    assert table[1] == ["concurrency 4", "dense", "10 ms", "720 ms", "100", "6", "1800.0 %"]


def test_what_was_not_measured_reaches_nothing() -> None:
    run = make_run(Level(concurrency=4))
    silent = run.arms[0].model_copy(update={"measures": {}})
    assert ceiling_rows(run, (silent,), served_manifests(run.served), MACHINE) == ()


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "prunebench" / "hardware.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_file() == Path.home() / ".cache" / "prunebench" / "hardware.json"


def drift(arm: int, **changes: Any) -> Steadiness:
    values: dict[str, Any] = {"arm": arm, "signal": "ttft", "drift": 0.02, "sure": 0.01, "cut": 0.0, "blocks": 8}
    return Steadiness(**(values | changes))


@pytest.fixture
def flowing() -> RunManifest:
    """The second arm stays in the server 25 % shorter than the law demands in one block, 10 % longer in another."""
    run = make_run(Level(concurrency=4))
    flows = ((0, 4.0, 8.0, 0.5), (1, 4.0, 10.0, 0.3), (1, 4.0, 11.0, 0.4))
    return run.model_copy(
        update={
            "arms": (*run.arms, run.arms[0]),
            "steadiness": (drift(0), drift(1, signal="in_flight", drift=-0.03)),
            "littles_law": tuple(
                LittlesLaw(arm=arm, block=block, in_flight=held, arrivals_per_s=rate, sojourn_s=stay)
                for block, (arm, held, rate, stay) in enumerate(flows)
            ),
        }
    )


def test_both_sides_of_the_law_and_its_worst_block(flowing: RunManifest) -> None:
    dense, small, again = flow_rows("concurrency 4", flowing)
    assert (dense.in_flight, dense.arrivals_times_sojourn, dense.worst_residual) == (4, 4, 0)
    assert small.arrivals_times_sojourn == pytest.approx(3.7)
    assert small.worst_residual == pytest.approx(0.25)
    assert [row.control for row in (dense, small, again)] == [False, False, True]
    assert (again.in_flight, again.worst_residual, again.drifts) == (None, None, ())


def test_a_run_that_recorded_neither_has_no_rows() -> None:
    assert flow_rows("concurrency 1", make_run(Level(concurrency=1))) == ()


def test_steadiness_is_on_the_page(flowing: RunManifest, run_folder: Writer, tmp_path: Path) -> None:
    write_report([run_folder("c4", flowing)], tmp_path / "report.html")
    page = " ".join((tmp_path / "report.html").read_text().replace(get_plotlyjs(), "").split())
    assert "<td>small</td> <td>–</td><td>-3.0 % (1.0 %)</td> <td>4</td> <td>3.7</td> <td>+25.0 %</td>" in page
    assert "dense again (A/A)" in page
