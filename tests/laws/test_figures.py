"""Do the pictures show the numbers of the findings, each model in one colour, and nothing that was not measured?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go
import pytest

from artifacts.run import ArmSummary, Estimate, Level, RunManifest
from laws.figures import (
    blocks_figure,
    colour_of,
    load_figure,
    pareto_figure,
    ratios_figure,
    shapes_figure,
    speedup_figure,
    trade_figure,
)
from laws.findings import HEADLINE, Findings, gather_findings
from laws.panels import PANELS
from laws.roofline import Hardware
from tests.laws.conftest import DENSE, SMALL, make_run, manifest

Writer = Callable[[str, RunManifest], Path]
MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")
LEVELS = (1, 4, 16)
NEED_MORE_THAN_RUNS = {
    "energy",
    "front",
    "capacity",
    "ttft-ecdf",
    "tpot-ecdf",
}  # meters, a sweep, a search, request records


@pytest.fixture
def findings(run_folder: Writer) -> Findings:
    """Three levels at which the small model is 1.5, 1.25 and 0.8 times as fast, the last without an interval."""
    estimates = (
        Estimate(value=1.5, low=1.4, high=1.7, n=8),
        Estimate(value=1.25, low=1.0, high=1.3, n=8),
        Estimate(value=0.8, n=1),
    )
    folders = []
    for streams, estimate in zip(LEVELS, estimates, strict=True):
        run = make_run(Level(concurrency=streams))
        comparison = run.comparisons[0].model_copy(
            update={"ratios": dict.fromkeys(run.comparisons[0].ratios, estimate)}
        )
        folders.append(run_folder(f"c{streams}", run.model_copy(update={"comparisons": (comparison,)})))
    return gather_findings(folders, MACHINE)


def traces(figure: go.Figure | None) -> dict[str, go.Scatter]:
    """The traces by name."""
    assert figure is not None
    return {trace.name: trace for trace in figure.data}


def with_measures(findings: Findings, **values: float | None) -> Findings:
    """The same findings, in which the small model's measures are replaced at every level."""
    changed = tuple(
        level.model_copy(update={"arms": tuple(_replaced(arm, values) for arm in level.arms)})
        for level in findings.levels
    )
    return findings.model_copy(update={"levels": changed})


def _replaced(arm: ArmSummary, values: dict[str, float | None]) -> ArmSummary:
    return arm if arm.model == "dense" else arm.model_copy(update={"measures": {**arm.measures, **values}})


def test_the_reference_is_grey_and_no_variant_is() -> None:
    names = ("dense", *(f"v{index}" for index in range(7)))
    findings = Findings.model_construct(reference="dense", models=names)
    colours = [colour_of(name, findings) for name in names]
    assert len(set(colours)) == len(names)
    grey = [int(colours[0][at : at + 2], 16) for at in (1, 3, 5)]
    assert max(grey) - min(grey) < 32


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "in the middle", "last"])
def test_a_variants_colour_does_not_depend_on_where_the_reference_stands(position: int) -> None:
    names = ["a", "b"]
    names.insert(position, "dense")
    findings = Findings.model_construct(reference="dense", models=tuple(names))
    alone = Findings.model_construct(reference=None, models=("a", "b"))
    assert [colour_of(name, findings) for name in "ab"] == [colour_of(name, alone) for name in "ab"]


def test_more_models_than_colours_begin_again_and_do_not_fail() -> None:
    names = tuple(f"v{index}" for index in range(15))
    findings = Findings.model_construct(reference=None, models=names)
    assert colour_of("v0", findings) == colour_of("v7", findings) == colour_of("v14", findings)


def test_speedups_stand_at_their_levels_with_their_intervals(findings: Findings) -> None:
    line = traces(speedup_figure(findings))["small"]
    assert list(line.x) == [f"concurrency {streams}" for streams in LEVELS]
    assert list(line.y) == [1.5, 1.25, 0.8]
    high = [value + up for value, up in zip(line.y, line.error_y.array, strict=True)]
    low = [value - down for value, down in zip(line.y, line.error_y.arrayminus, strict=True)]
    assert high == pytest.approx([1.7, 1.3, 0.8])
    assert low == pytest.approx([1.4, 1.0, 0.8])


def test_the_reference_has_no_speedup_over_itself(findings: Findings) -> None:
    assert "dense" not in traces(speedup_figure(findings))


def test_the_prediction_is_the_rooflines_and_dotted(findings: Findings) -> None:
    line = traces(speedup_figure(findings))["small, roofline"]
    rows = [row for row in findings.ceilings if row.model == "small"]
    assert list(line.y) == [row.predicted_speedup for row in rows]
    assert line.line.dash == "dot"
    assert line.line.color == colour_of("small", findings)


def test_without_hardware_nothing_is_predicted(findings: Findings) -> None:
    assert set(traces(speedup_figure(findings.model_copy(update={"ceilings": ()})))) == {"small"}


@pytest.mark.parametrize(
    ("measure", "scale", "dense", "small"),
    [
        pytest.param("output_tokens_per_s", 1.0, 100, 150, id="throughput as it is"),
        pytest.param("ttft_p50_s", 1e3, 10, 10, id="seconds become milliseconds"),
        pytest.param("tpot_p50_s", 1e3, 10, 1000 / 150, id="each model its own"),
    ],
)
def test_a_measure_is_drawn_for_every_model(
    findings: Findings, measure: str, scale: float, dense: float, small: float
) -> None:
    lines = traces(load_figure(findings, measure, "title", scale))
    assert list(lines["dense"].y) == pytest.approx([dense] * 3)
    assert list(lines["small"].y) == pytest.approx([small] * 3)


def test_a_percentile_that_is_not_certified_is_left_out(findings: Findings) -> None:
    lines = traces(load_figure(with_measures(findings, ttft_p50_s=None), "ttft_p50_s", "ms"))
    assert (len(lines["dense"].y), len(lines["small"].y or ())) == (3, 0)
    assert load_figure(findings, "ttft_p99_s", "ms") is None


def test_load_axes_begin_at_zero_so_that_ratios_can_be_seen(findings: Findings) -> None:
    figure = load_figure(findings, "output_tokens_per_s", "tokens/s")
    assert figure is not None
    assert figure.layout.yaxis.rangemode == "tozero"


def test_interactivity_is_one_over_the_time_per_token(findings: Findings) -> None:
    line = traces(pareto_figure(with_measures(findings, tpot_p50_s=0.02, output_tokens_per_s=300)))["small"]
    assert list(line.x) == [50] * 3
    assert list(line.y) == [300] * 3


@pytest.mark.parametrize("missing", [{"tpot_p50_s": None}, {"tpot_p50_s": 0.0}, {"output_tokens_per_s": None}])
def test_a_point_needs_both_coordinates(findings: Findings, missing: dict[str, float | None]) -> None:
    assert len(traces(pareto_figure(with_measures(findings, **missing)))["small"].x or ()) == 0


def test_the_trade_is_drawn_at_the_highest_level(findings: Findings) -> None:
    points = traces(trade_figure(findings))
    assert (points["dense"].x[0], points["dense"].y[0]) == (0, 1)
    assert points["small"].x[0] == pytest.approx(2.25 - 2.0)
    assert points["small"].y[0] == 0.8


def test_without_the_references_loss_there_is_no_trade(findings: Findings) -> None:
    silent = findings.variants["dense"].model_copy(update={"quality": ()})
    assert trade_figure(findings.model_copy(update={"variants": {**findings.variants, "dense": silent}})) is None


def test_a_variant_that_was_not_evaluated_is_not_placed_at_zero(findings: Findings) -> None:
    silent = findings.variants["small"].model_copy(update={"quality": ()})
    points = traces(trade_figure(findings.model_copy(update={"variants": {**findings.variants, "small": silent}})))
    assert set(points) == {"dense"}


def test_bars_are_the_five_ratios_in_percent(findings: Findings) -> None:
    bars = traces(ratios_figure(findings))
    assert set(bars) == {"small"}
    assert list(bars["small"].x) == pytest.approx([50, 50, 40, 40, 0])
    assert list(bars["small"].text) == ["50 %", "50 %", "40 %", "40 %", "0 %"]


def test_rows_of_the_heat_map_are_variants_and_a_removed_layer_is_a_dash(findings: Findings) -> None:
    figure = shapes_figure(findings)
    assert figure is not None
    (heat,) = figure.data
    assert list(heat.y) == ["small"]
    assert [list(row) for row in heat.z] == [[1.0, 0.0, 1.0]]
    assert [list(row) for row in heat.text] == [["16<br>2 KV", "—", "16<br>2 KV"]]


def test_blocks_are_counted_from_one(findings: Findings) -> None:
    line = traces(blocks_figure(findings))["small"]
    assert (list(line.x), list(line.y)) == ([1, 2], [1.45, 1.55])


@pytest.mark.parametrize(
    ("draw", "field", "value"),
    [
        pytest.param(speedup_figure, "reference", None, id="no reference, no speed-up"),
        pytest.param(trade_figure, "reference", None, id="no reference, no trade"),
        pytest.param(ratios_figure, "variants", {}, id="no manifests, no ratios"),
        pytest.param(shapes_figure, "variants", {}, id="no manifests, no shapes"),
    ],
)
def test_nothing_to_draw_is_no_picture(
    findings: Findings, draw: Callable[[Findings], go.Figure | None], field: str, value: object
) -> None:
    assert draw(findings.model_copy(update={field: value})) is None


def test_no_pairs_are_no_picture_of_pairs(findings: Findings) -> None:
    last = findings.levels[-1].model_copy(update={"block_speedups": {"small": ()}})
    assert blocks_figure(findings.model_copy(update={"levels": (last,)})) is None


def test_a_model_keeps_its_colour_on_every_picture(findings: Findings) -> None:
    wanted = colour_of("small", findings)
    drawn = [(name, figure) for name, _, draw in PANELS if (figure := draw(findings)) is not None]
    assert {name for name, _, _ in PANELS} - {name for name, _ in drawn} == NEED_MORE_THAN_RUNS
    for name, figure in drawn:
        for trace in (trace for trace in figure.data if trace.name == "small"):
            line_colour = trace.line.color if trace.type == "scatter" else None
            assert wanted in (line_colour, trace.marker.color), name


def test_the_headline_is_throughput() -> None:
    assert HEADLINE == "speedup_output_tokens_per_s"
    assert len({name for name, _, _ in PANELS}) == len(PANELS)


def test_half_of_the_width_is_half_of_the_colour_although_no_variant_kept_all(findings: Findings) -> None:
    """A picture of one evenly pruned variant must not look like one from which nothing was removed."""
    half = manifest("small", SMALL, 2.25)
    half = half.model_copy(update={"layers": tuple(la.model_copy(update={"ffn_width": 8}) for la in half.layers)})
    variants = {"dense": manifest("dense", DENSE, 2.0), "small": half}
    figure = shapes_figure(findings.model_copy(update={"variants": variants}))
    assert figure is not None
    assert [list(row) for row in figure.data[0].z] == [[0.5, 0.0, 0.5]]
