"""What Grafana gets: the committed JSON is the code's, its schema Grafana's, and every panel explains itself."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import TAG, Board, as_json
from dashboards.build import BOARDS, build, files, stale
from dashboards.panels import Panel, description
from dashboards.scraping import HERE

PANELS = [(board, panel) for board in BOARDS for row in board.rows for panel in row.panels]
VARIABLE = re.compile(r"\$(\w+)")
BUILT_IN = {"__rate_interval"}


def drawn(board: Board) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(as_json(board))
    return loaded


def test_committed_files_are_what_the_code_says() -> None:
    assert stale() == []
    for path, text in files().items():
        assert (HERE / path).read_bytes() == text.encode()


def test_building_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    written = build(tmp_path)
    first = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in build(tmp_path)} == first
    assert {path.relative_to(tmp_path) for path in written} == set(files())
    written[0].write_text("{}")
    assert stale(tmp_path) == [written[0].relative_to(tmp_path)]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_grafanas_own_types_read_and_write_the_same(board: Board) -> None:
    """The SDK's models are generated from Grafana's schema: what they do not know is lost on the way, and seen here."""
    register_default_plugins()
    again = Dashboard.from_json(drawn(board))
    assert json.loads(json.dumps(again, cls=JSONEncoder)) == drawn(board)


def test_what_the_schema_does_not_know_would_be_seen() -> None:
    spoilt = drawn(BOARDS[0]) | {"tittle": "misspelt"}
    assert json.loads(json.dumps(Dashboard.from_json(spoilt), cls=JSONEncoder)) != spoilt


def test_uids_are_stable_and_distinct() -> None:
    assert {board.uid for board in BOARDS} == {
        f"prunebench-{name}" for name in ("fleet", "variants", "engine", "roofline", "load-test", "gateway")
    }


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_board_links_to_the_others_and_can_be_pointed_elsewhere(board: Board) -> None:
    made = drawn(board)
    (link,) = made["links"]
    assert (link["tags"], link["keepTime"], link["includeVars"]) == ([TAG], True, True)
    assert made["tags"] == [TAG]
    assert made["templating"]["list"][0]["type"] == "datasource"
    for panel in (panel for panel in made["panels"] if panel["type"] != "row"):
        assert panel["datasource"]["uid"] == "${datasource}"
    (annotation,) = made["annotations"]["list"]
    assert "prunebench_loadtest_window_open" in annotation["expr"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_variables_that_are_used_are_declared_and_the_other_way_round(board: Board) -> None:
    texts = [
        f"{panel.title} {panel.about} {line.expr}" for row in board.rows for panel in row.panels for line in panel.lines
    ]
    used = {name for text in texts for name in VARIABLE.findall(text)} - BUILT_IN
    assert used == set(board.variables)
    declared = {variable["name"] for variable in drawn(board)["templating"]["list"]}
    assert declared == used | {"datasource"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_do_not_overlap_and_fill_the_grid(board: Board) -> None:
    boxes = [panel["gridPos"] for panel in drawn(board)["panels"]]
    for one, other in itertools.combinations(boxes, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert all(sum(panel.width for panel in row.panels) % 24 == 0 for row in board.rows)
    numbers = [panel["id"] for panel in drawn(board)["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda value: getattr(value, "title", None))
def test_panel_defines_every_metric_it_shows(board: Board, panel: Panel) -> None:
    text = description(panel)
    assert len(panel.about) > 4
    for line in panel.lines:
        for name in set(re.findall(r"\b((?:vllm:|prunebench_)\w+)\{", line.expr)):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in text
    assert ("Needs an NVIDIA GPU" in text) == any("prunebench_gpu_" in line.expr for line in panel.lines)


def test_titles_are_distinct_within_a_board() -> None:
    for board in BOARDS:
        titles = [panel.title for row in board.rows for panel in row.panels]
        assert len(titles) == len(set(titles))


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda value: getattr(value, "title", None))
def test_series_of_several_variants_have_names_that_tell_them_apart(board: Board, panel: Panel) -> None:
    """A query that sums by labels, or selects gauges by variant, names them in its legend."""
    for line in panel.lines:
        by = re.match(r"^(?:sum|max|count) by \(([^)]*)\) ", line.expr)
        for label in (name.strip() for name in by[1].split(",")) if by else ():
            assert f"{{{{{label}}}}}" in line.legend
    legends = [line.legend for line in panel.lines]
    assert len(set(legends)) == len(legends)
