"""What does a Prometheus answer to every query of every board?"""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from dashboards.build import BOARDS
from dashboards.panels import Line, Panel

POINTS = 36
VARIABLES = {
    "$__rate_interval": "30s",
    "$window": "5m",
    "$variant": ".+",
    "$reference": "dense",
    "$slo_ttft": "0.5",
    "$slo_tpot": "0.03",
    "$peak_bandwidth": "20",
    "$peak_flops": "0.2",
}


def substituted(expression: str) -> str:
    """As Grafana would send it; the peaks are roughly those of two CPU cores."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def ask(url: str, path: str, **parameters: str | float) -> list[dict[str, Any]]:
    """Raises OSError where Prometheus does not answer, ValueError where it refuses the query."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=60) as answer:
        body = json.load(answer)
    if body["status"] != "success":
        raise ValueError(body)
    result: list[dict[str, Any]] = body["data"]["result"]
    return result


def answers(url: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """One entry per panel of every board, its lines' series thinned to `POINTS` values over the span."""
    return [
        {
            "board": board.name,
            "row": row.title,
            "panel": panel.title,
            "kind": panel.kind,
            "unit": panel.unit,
            "stacked": panel.stacked,
            "needs": panel.needs,
            "lines": [_line(url, panel, line, start_s, end_s) for line in panel.lines],
        }
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
    ]


def _line(url: str, panel: Panel, line: Line, start_s: float, end_s: float) -> dict[str, Any]:
    step_s = (end_s - start_s) / (POINTS - 1)
    found = ask(url, "query_range", query=substituted(line.expr), start=start_s, end=end_s, step=step_s)
    series = [_series(line.legend, one, start_s, step_s) for one in found]
    return {"expr": line.expr, "series": [one for one in series if any(v is not None for v in one["values"])]}


def _series(legend: str, one: Mapping[str, Any], start_s: float, step_s: float) -> dict[str, Any]:
    values: list[float | None] = [None] * POINTS
    for at_s, text in one["values"]:
        value = float(text)
        values[round((float(at_s) - start_s) / step_s)] = float(f"{value:.4g}") if math.isfinite(value) else None
    return {"name": named(legend, one["metric"]), "values": values}


def named(legend: str, labels: Mapping[str, str]) -> str:
    """Grafana's legend: labels in double braces."""
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return re.sub(r"\{\{\w+\}\}", "", legend).strip()


def without_data(panels: list[dict[str, Any]]) -> list[str]:
    """Lines that returned nothing, but for the panels that say they need a GPU."""
    return [
        f"{panel['board']}: {panel['panel']}: {line['expr']}"
        for panel in panels
        for line in panel["lines"]
        if not line["series"] and panel["needs"] != "gpu"
    ]
