"""Do the pictures of fronts, rates, percentiles and single requests show what was measured?"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest

from artifacts.run import REQUESTS_NAME, Level, RequestRecord, write_requests
from laws.capacity_figures import capacity_figure, front_figure
from laws.distributions import distribution_of, distributions_of
from laws.figures import blocks_figure, colour_of, pareto_figure
from laws.findings import Findings, gather_findings
from laws.latency_figures import ecdf_figure, latency_figure
from tests.laws.answers import QUIET, Writer, campaign_folder, search_folder, sweep_folder
from tests.laws.conftest import make_run


def traces(figure: go.Figure | None, name: str) -> list[go.Scatter]:
    assert figure is not None
    return [trace for trace in figure.data if trace.name == name]


def record(arm: int, index: int, ttft_s: float, tpot_s: float, **changes: object) -> RequestRecord:
    """Five output tokens, the first after `ttft_s`."""
    due = float(index)
    values: dict[str, object] = {
        "model": ("dense", "small", "dense")[arm],
        "block": 0,
        "index": index,
        "warmup": False,
        "scheduled_s": due,
        "sent_s": due,
        "first_s": due + ttft_s,
        "last_s": due + ttft_s + 4 * tpot_s,
        "done_s": due + ttft_s + 4 * tpot_s,
        "status": 200,
        "error": None,
        "prompt_tokens": 10,
        "output_tokens": 5,
        "finish_reason": "length",
        "reads": 5,
        "event_s": tuple(due + ttft_s + i * tpot_s for i in range(5)),
        "arm": arm,
    }
    return RequestRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def recorded(run_folder: Writer) -> Path:
    """Dense takes 10, 20, 30 and 40 ms to the first token; its control, a failure and a warm-up count nowhere."""
    run = make_run(Level(concurrency=4))
    folder = run_folder("c4", run.model_copy(update={"arms": (*run.arms, run.arms[0])}))
    dense = [record(0, i, 0.01 * (i + 1), 0.004) for i in range(4)]
    left_out = [
        record(0, 4, 9.0, 9.0, warmup=True),
        record(0, 5, 9.0, 9.0, error="status: 500"),
        record(2, 6, 9.0, 9.0),
    ]
    write_requests(folder / REQUESTS_NAME, [*dense, *left_out, record(1, 7, 0.005, 0.002)])
    return folder


def test_every_request_that_counts_is_in_the_distribution(recorded: Path) -> None:
    (level,) = gather_findings([recorded], None).levels
    dense, small = level.distributions["dense"], level.distributions["small"]
    assert dense["ttft"].values_s == pytest.approx((0.01, 0.02, 0.03, 0.04))
    assert dense["ttft"].shares == (0.25, 0.5, 0.75, 1.0)
    assert (dense["tpot"].samples, small["tpot"].samples) == (4, 1)
    assert small["tpot"].values_s == pytest.approx((0.002,))


def test_a_thinned_distribution_keeps_its_ends_and_stays_exact() -> None:
    values = [float(i) for i in range(1, 5001)]
    found = distribution_of(values[::-1])
    assert found is not None
    assert (found.samples, len(found.values_s)) == (5000, 200)
    assert (found.values_s[0], found.values_s[-1], found.shares[-1]) == (1, 5000, 1)
    assert [round(share * 5000) for share in found.shares] == [int(value) for value in found.values_s]


def test_nothing_has_no_distribution(run_folder: Writer) -> None:
    assert distribution_of(()) is None
    run = make_run(Level(concurrency=1))
    assert distributions_of(run_folder("c1", run), run) == {}


def test_the_ecdf_rises_from_zero_to_one_in_milliseconds(recorded: Path) -> None:
    findings = gather_findings([recorded], None)
    (dense,) = traces(ecdf_figure(findings, "ttft"), "dense")
    assert list(dense.x) == pytest.approx([10, 10, 20, 30, 40])
    assert list(dense.y) == [0, 0.25, 0.5, 0.75, 1]
    assert dense.line.shape == "hv"
    assert ecdf_figure(findings, "e2e") is None


def test_percentiles_are_told_by_their_dashes_and_named_once(run_folder: Writer) -> None:
    run = make_run(Level(concurrency=4))
    dense = run.arms[0].model_copy(update={"measures": {**run.arms[0].measures, "ttft_p90_s": 0.03}})
    findings = gather_findings([run_folder("c4", run.model_copy(update={"arms": (dense, run.arms[1])}))], None)
    figure = latency_figure(findings, "ttft")
    drawn = [(t.line.dash, t.y[0], t.showlegend) for t in traces(figure, "dense")]
    assert drawn == [("solid", 10, True), ("dash", pytest.approx(30), False)]
    assert [(t.line.dash, t.showlegend) for t in traces(figure, "small")] == [("solid", True)]
    assert latency_figure(findings, "itl") is None


@pytest.fixture
def swept(run_folder: Writer) -> Findings:
    return gather_findings([sweep_folder(run_folder)], None)


def test_a_front_is_a_staircase_and_the_rest_is_faint(swept: Findings) -> None:
    on, off = traces(front_figure(swept), "dense")
    assert (list(on.x), list(on.y), list(off.x), list(off.y)) == ([50], [90], [40], [88])
    assert off.opacity is not None and off.opacity < 0.5
    (small,) = traces(front_figure(swept), "small")
    # Users up to 30 tokens/s get what the second level gives, faster ones what the first does: down, then right.
    assert (list(small.x), list(small.y), small.line.shape) == ([30, 60], [200, 110], "vh")
    assert list(small.text) == ["concurrency 8", "concurrency 2"]


def test_the_winners_area_has_the_winners_colour(swept: Findings) -> None:
    figure = front_figure(swept)
    assert figure is not None
    shades = [(shape.x0, shape.x1, shape.fillcolor) for shape in figure.layout.shapes]
    assert shades == [(0, 50, colour_of("small", swept)), (50, 60, colour_of("small", swept))]


def test_a_sweeps_fronts_replace_the_picture_of_single_runs(swept: Findings) -> None:
    assert pareto_figure(swept) is None
    assert front_figure(swept.model_copy(update={"sweeps": ()})) is None
    assert pareto_figure(swept.model_copy(update={"sweeps": ()})) is not None


def test_every_tried_rate_stands_with_its_verdict_over_its_bracket(tmp_path: Path) -> None:
    findings = gather_findings([search_folder(tmp_path)], None)
    figure = capacity_figure(findings)
    (tried,) = traces(figure, "small")
    assert list(tried.x) == [12, 14, 20]
    assert list(tried.text) == ["met", "missed", "unusable"]
    assert len(set(tried.marker.symbol)) == 3
    assert figure is not None
    brackets = [tuple(trace.x) for trace in figure.data if trace.mode == "lines"]
    assert brackets == [(8, 9), (12, 14)]
    legend = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert legend == ["met", "missed", "undecided", "unusable"]


def test_two_searches_are_told_apart_by_their_limits(tmp_path: Path) -> None:
    findings = gather_findings([search_folder(tmp_path, "one"), search_folder(tmp_path, "two")], None)
    figure = capacity_figure(findings)
    (first, _) = traces(figure, "dense")
    assert set(first.y) == {"dense<br>ttft_p90<150ms"}


def test_the_control_is_among_the_pairs(run_folder: Writer) -> None:
    (control,) = traces(blocks_figure(gather_findings([campaign_folder(run_folder)], None)), "dense again (A/A)")
    assert list(control.y) == list(QUIET)
    assert list(control.x) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("levels", "title", "ticks"),
    [
        ((Level(concurrency=1), Level(concurrency=16)), "concurrency", ("1", "16")),
        (
            tuple(Level(rate_per_s=rate, arrivals="poisson") for rate in (0.5, 4)),
            "requests/s, poisson",
            ("0.5", "4"),
        ),
        ((Level(concurrency=1), Level(rate_per_s=4, arrivals="poisson")), "", None),
    ],
    ids=["closed", "open", "both"],
)
def test_what_all_levels_share_is_said_once(
    run_folder: Writer, levels: tuple[Level, ...], title: str, ticks: tuple[str, ...] | None
) -> None:
    findings = gather_findings([run_folder(f"r{i}", make_run(level)) for i, level in enumerate(levels)], None)
    figure = latency_figure(findings, "tpot")
    assert figure is not None
    axis = figure.layout.xaxis
    assert (axis.title.text or "", axis.ticktext) == (title, ticks)
    if ticks:
        assert axis.tickvals == tuple(level.label for level in findings.levels)


def test_a_level_of_two_folders_is_told_by_the_folder(run_folder: Writer) -> None:
    run = make_run(Level(concurrency=4))
    findings = gather_findings([run_folder("first", run), run_folder("second", run)], None)
    figure = latency_figure(findings, "tpot")
    assert figure is not None
    assert figure.layout.xaxis.ticktext == ("4", "4<br>(second)")
