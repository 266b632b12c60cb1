"""Does the study's page say what the study says? Verdicts first, pictures of the right points, numbers beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import ConfigError
from laws.figures import COLOURS
from laws.fits.fit import Parameter
from laws.studies import loss_figures, speed_figures
from laws.studies.comparison import Analysis
from laws.studies.findings import StudyFindings, find
from laws.studies.records import read_study
from laws.studies.report import (
    counts,
    format_parameter,
    panels,
    render,
    short_number,
    write_study_report,
)
from tests.laws.synthetic import World, analysis_of, study_of, write_study

GIGA = 1_000_000_000
WORLD = World(
    models={"a": GIGA, "b": 3 * GIGA},
    methods=("random", "obs"),
    ratios=(0.1, 0.3, 0.5, 0.7, 0.9),
    budgets=(0, 25_000_000),
    tasks=("piqa",),
    seeds=(0, 1),
    modes=("paper", "serving"),
)


@cache
def analysed() -> Analysis:
    return analysis_of(WORLD, replicates=40)


@cache
def found() -> StudyFindings:
    return find(analysed())


@cache
def page() -> str:
    return render(analysed(), found())


def test_verdicts_come_first_then_pictures_then_laws() -> None:
    order = ("<h1>made-up</h1>", ">C1<", ">C16<", 'id="loss-wikitext2"', "<h3>The laws")
    places = [page().index(text) for text in order]
    assert places == sorted(places)


def test_every_verdict_is_on_the_page_with_its_numbers() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page().partition("<body>")[2].partition("Pictures")[0]))
    for verdict in found().verdicts:
        assert verdict.reason in text.replace("&#39;", "'")
        for number in verdict.numbers:
            assert f"{number.name} {short_number(number.value)}" in text
    for word, count in counts(found().verdicts).items():
        assert f"{count} {word}" in text


def test_the_page_needs_nothing_from_outside_and_fits_a_phone() -> None:
    body = page().partition("</script>")[2]
    assert "viewport" in page() and "http://" not in body and "https://" not in body
    assert page().count("Plotly.newPlot(") == len([figure for _, _, figure in panels(analysed()) if figure])


def test_panels_of_a_full_study() -> None:
    assert [name for name, _, figure in panels(analysed()) if figure] == [
        "loss-wikitext2",
        "accuracy",
        "recovery-wikitext2",
        "critical",
        "paper-speed",
        "serving-speed",
        "adjusted",
        "residuals-wikitext2",
    ]


def test_panels_of_a_study_of_speeds_alone() -> None:
    world = replace(WORLD, sets=(), tasks=(), budgets=(0,))
    assert [name for name, _, figure in panels(analysis_of(world)) if figure] == ["paper-speed", "serving-speed"]


def test_points_are_cells_and_lines_are_the_best_law() -> None:
    figure = loss_figures.value_figure(analysed(), "loss", "wikitext2")
    assert figure is not None
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in points] == ["random", "random, full 25 M", "obs", "obs, full 25 M"]
    assert all(len(trace.x) == 2 * 5 * 2 for trace in points)
    cell = next(c for c in analysed().study.cells if c.ratio == 0.1 and c.method == "random")
    assert points[0].y[0] == pytest.approx(cell.losses[0].loss_nats / cell.losses[0].base_loss_nats)
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.line.width == 2]
    line = next(trace for trace in lines if trace.name.startswith("random, full 25 M: "))
    at = int(np.argmin(np.abs(np.asarray(line.x) - 0.5)))
    assert line.y[at] == pytest.approx((1 + line.x[at]) ** 2 * (1 + 1 / 26) ** 0.5, rel=0.03)


def test_the_share_won_back() -> None:
    figure = loss_figures.recovery_figure(analysed(), "wikitext2")
    assert figure is not None
    expected = 1 - ((1 + 1 / 26) / 2) ** 0.5
    for trace in figure.data:
        assert list(trace.y) == pytest.approx([expected] * 5, abs=0.03)
    assert loss_figures.recovery_figure(analysis_of(replace(WORLD, budgets=(0,))), "wikitext2") is None


def test_critical_ratios_are_drawn_beside_what_was_seen() -> None:
    figure = loss_figures.critical_figure(analysed())
    assert figure is not None
    by_name = {trace.name: trace for trace in figure.data}
    law, seen = by_name["by the law v1"], by_name["seen"]
    row = "random + full<br>accuracy, 0.8 ×"
    assert law.x[list(law.y).index(row)] == pytest.approx(0.25, abs=0.03)
    assert seen.x[list(seen.y).index(row)] == pytest.approx(0.23, abs=0.05)
    rising = seen.x[list(seen.y).index("random<br>wikitext2, 1.25 ×")]
    assert rising == pytest.approx(0.1 * 0.25 / (1.1**2 * 2**0.5 - 1), abs=0.003), "from the dense model to r = 0.1"
    recovered = seen.x[list(seen.y).index("obs + full<br>wikitext2, 1.25 ×")]
    assert recovered == pytest.approx((1.25 / (1 + 1 / 26) ** 0.5) ** 0.5 - 1, abs=0.03)


def test_a_method_has_one_colour_on_all_of_a_page() -> None:
    """The first method has no speeds here, and still is the first."""
    study = analysed().study
    cells = tuple(c if c.method == "obs" else c.model_copy(update={"speeds": ()}) for c in study.cells)
    changed = replace(analysed(), study=replace(study, cells=cells))
    speeds = speed_figures.ratio_figure(changed, "paper"), speed_figures.quality_adjusted_figure(changed)
    residuals = loss_figures.residual_figure(changed, "loss", "wikitext2")
    assert residuals is not None
    own = [trace for figure in speeds if figure is not None for trace in figure.data]
    own += [trace for trace in residuals.data if trace.name.startswith("obs")]
    assert len(own) > 6 and {trace.marker.color or trace.line.color for trace in own} == {COLOURS[1]}


def test_a_table_has_columns_for_what_was_tested_only() -> None:
    one = analysis_of(replace(WORLD, models={"a": GIGA}, modes=(), tasks=()))
    text = render(one, find(one))
    assert "<th>another model</th>" in page() and "<th>another model</th>" not in text
    assert "(held)" not in text and "AIC" in text


def test_speeds_have_whiskers_and_a_fitted_line() -> None:
    figure = speed_figures.ratio_figure(analysed(), "paper")
    assert figure is not None
    points = next(trace for trace in figure.data if trace.mode == "markers")
    assert points.error_y.array[0] == pytest.approx(points.y[0] * 0.01)
    line = next(trace for trace in figure.data if trace.mode == "lines")
    assert line.y[0] == 1 and line.y[-1] == pytest.approx(1 / (1 - 0.5 * 0.92), rel=0.02)
    assert speed_figures.ratio_figure(analysis_of(replace(WORLD, modes=(), ratios=(0.5,))), "paper") is None


def test_speed_times_quality() -> None:
    figure = speed_figures.quality_adjusted_figure(analysed())
    assert figure is not None
    trace = figure.data[0]
    expected = [1 / (1 - 0.5 * r) / (1 + r) * (1 + 1 / 26) ** -0.4 for r in WORLD.ratios]
    assert list(trace.y) == pytest.approx(expected, rel=0.03)


def test_speed_against_load_needs_two_levels() -> None:
    assert speed_figures.load_figure(analysed()) is None
    study = study_of(replace(WORLD, budgets=(0,), sets=(), tasks=()))
    cells = tuple(
        cell.model_copy(
            update={
                "speeds": cell.speeds
                + tuple(row.model_copy(update={"level": "rate 2/s"}) for row in cell.speeds if row.mode == "serving")
            }
        )
        for cell in study.cells
    )
    figure = speed_figures.load_figure(Analysis(study=replace(study, cells=cells), comparisons=(), fitted={}))
    assert figure is not None
    assert list(figure.data[0].x) == ["rate 2/s", "rate 8/s"] and len(figure.data) == 5
    assert figure.layout.yaxis.title.text == "speed-up of b random"


def test_residuals_of_the_true_law_are_noise() -> None:
    figure = loss_figures.residual_figure(analysed(), "loss", "wikitext2")
    assert figure is not None
    for trace in figure.data:
        assert np.std(trace.y) == pytest.approx(0.01, abs=0.006)


def test_the_report_is_written_with_its_numbers(tmp_path: Path) -> None:
    folder = write_study(replace(WORLD, methods=("random",), ratios=(0.3, 0.6)), tmp_path / "small.study")
    printed = write_study_report([folder], tmp_path / "out.html")
    stored = StudyFindings.load(tmp_path / "out.json")
    assert printed["verdicts"] == counts(stored.verdicts)
    assert stored.cells == len(read_study(folder).cells) and stored.title == "small"
    assert json.loads((tmp_path / "out.json").read_text())["schema_version"] == 1
    with pytest.raises(ConfigError, match="is a folder"):
        write_study_report([folder], tmp_path)


def test_failed_cells_are_on_the_page() -> None:
    study = analysed().study
    failed = study.cells[0].model_copy(update={"status": "failed", "error": "<no memory>", "cell": "broken"})
    told = find(replace(analysed(), study=replace(study, failed=(failed,))))
    text = render(analysed(), told)
    assert "1 failed" in text and "&lt;no memory&gt;" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.9954, "1.995"),
        (-0.05, "−0.050"),
        (12.34, "12.3"),
        (3.8e6, "3.8e+06"),
        (4608.2, "4608"),
        (0, "0.000"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_parameters_say_if_they_were_held() -> None:
    assert format_parameter(Parameter(name="gamma", value=0, fixed=True)) == "gamma 0.000 (held)"
    assert format_parameter(Parameter(name="b", value=2, low=1, high=3, t_low=0, t_high=9)) == "b 2.000 [1.000, 3.000]"
    assert format_parameter(Parameter(name="b", value=2, t_low=0.5, t_high=9)) == "b 2.000 [0.500, 9.000]"
