"""The divergence on a study's page: the cells' own numbers, means as lines, and no picture without them."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from laws.studies.comparison import analyse
from laws.studies.divergence_figure import divergence_figure, divergence_of
from laws.studies.records import Study
from laws.studies.report import panels
from tests.laws.synthetic import World, study_of

WORLD = World(models={"a": 10**9}, methods=("random", "obs"), ratios=(0.2, 0.4, 0.6), seeds=(0, 1))


def diverging(study: Study) -> Study:
    """Every pruned cell's divergence is its ratio times 0.5, plus 0.1 for the second seed."""
    cells = []
    for cell in study.cells:
        nats = 0.0 if cell.is_dense else 0.5 * cell.ratio + 0.1 * cell.seed
        cells.append(
            cell.model_copy(update={"losses": tuple(x.model_copy(update={"js_nats": nats}) for x in cell.losses)})
        )
    return replace(study, cells=tuple(cells))


def test_markers_are_the_cells_and_lines_their_means() -> None:
    study = diverging(study_of(WORLD))
    figure = divergence_figure(analyse(study, replicates=0, on="wikitext2"), "wikitext2")
    assert figure is not None
    markers = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    assert set(markers) == {"random", "obs"} and set(lines) == {"random, a", "obs, a"}
    assert sorted(markers["obs"].y) == pytest.approx([0.1, 0.2, 0.2, 0.3, 0.3, 0.4])
    assert list(lines["obs, a"].x) == [0.2, 0.4, 0.6]
    assert list(lines["obs, a"].y) == pytest.approx([0.15, 0.25, 0.35])
    assert figure.layout.shapes[0].y0 == pytest.approx(log(2))


def test_a_study_without_divergences_has_no_such_picture() -> None:
    analysis = analyse(study_of(WORLD), replicates=0, on="wikitext2")
    assert divergence_figure(analysis, "wikitext2") is None
    assert divergence_of(analysis.study.cells[-1], "wikitext2") is None
    assert [name for name, _, figure in panels(analysis) if figure and name.startswith("divergence")] == []
    with_it = analyse(diverging(analysis.study), replicates=0, on="wikitext2")
    assert [name for name, _, figure in panels(with_it) if figure][:2] == ["loss-wikitext2", "divergence-wikitext2"]
