"""What do the boards look like? Draws each from the evidence's answers, for the documents and for one's own eyes.

`python -m benchmarks.dashboard_pictures OUT [--board NAME]` writes a HTML page per board; `--chromium` also a picture.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.dashboard_answers import substituted
from benchmarks.pages import read_raw

EVIDENCE = Path(__file__).with_name("dashboards_evidence_cpu_202611")
COLUMNS = 3
WIDTH, ROW_HEIGHT = 1350, 250
PALETTE = ("#1f60c4", "#e0752d", "#3f9c5a", "#8f3bb8", "#c4162a", "#7a7a7a", "#b8860b", "#11848f", "#d44a9c", "#555500")
AXES = {"s": "s", "reqps": "req/s", "none": "", "percentunit": "share", "bytes": "bytes", "Bps": "bytes/s"}


def figure(panels: list[dict[str, Any]], seconds: float) -> go.Figure:
    """One small plot per panel, in the board's order; a stat as its line over time."""
    rows = -(-len(panels) // COLUMNS)
    titles = [substituted(panel["panel"]) for panel in panels]
    drawn = make_subplots(rows, COLUMNS, subplot_titles=titles, vertical_spacing=0.35 / rows, horizontal_spacing=0.06)
    for number, panel in enumerate(panels):
        row, column = number // COLUMNS + 1, number % COLUMNS + 1
        _draw(drawn, panel, row, column, seconds)
    drawn.update_layout(width=WIDTH, height=ROW_HEIGHT * rows + 60, showlegend=False, template="plotly_white")
    drawn.update_layout(margin={"l": 50, "r": 15, "t": 40, "b": 30}, font={"size": 10})
    return drawn


def _draw(drawn: go.Figure, panel: dict[str, Any], row: int, column: int, seconds: float) -> None:
    series = [one for line in panel["lines"] for one in line["series"]]
    unit = panel["unit"]
    drawn.update_yaxes(title_text=AXES.get(unit, unit.removeprefix("suffix:").strip()), row=row, col=column)
    if panel["kind"] != "states":
        drawn.update_yaxes(rangemode="tozero", row=row, col=column)
    drawn.update_xaxes(range=[0, seconds], row=row, col=column)
    for place, one in enumerate(series):
        values = one["values"] if panel["kind"] != "states" else [v and place + 1 for v in one["values"]]
        step_s = seconds / (len(values) - 1)
        line = go.Scatter(
            x=[step_s * index for index in range(len(values))],
            y=values,
            name=one["name"],
            mode="lines",
            line={"width": 1.3, "color": PALETTE[place % len(PALETTE)]},
            stackgroup="one" if panel["stacked"] else None,
        )
        drawn.add_trace(line, row=row, col=column)
    if not series:
        drawn.add_trace(go.Scatter(x=[0], y=[None]), row=row, col=column)  # axes belong to traces
    _legend(drawn, series, row, column)


def _legend(drawn: go.Figure, series: list[dict[str, Any]], row: int, column: int) -> None:
    """Within the plot: a common legend would say nothing about whose series are whose."""
    names = [
        f'<span style="color:{PALETTE[place % len(PALETTE)]}">{one["name"] or "value"}</span>'
        for place, one in enumerate(series[:8])
    ]
    text = "<br>".join(names) if names else "no data"
    drawn.add_annotation(
        text=text,
        showarrow=False,
        align="left",
        xref="x domain",
        yref="y domain",
        x=0.01,
        y=0.99,
        xanchor="left",
        yanchor="top",
        font={"size": 9},
        bgcolor="rgba(255,255,255,0.6)",
        row=row,
        col=column,
    )


def screenshot(page: Path, picture: Path, height: int) -> None:
    """Raises CalledProcessError with what Chromium said."""
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=0.6",
            f"--user-data-dir={profile}",
        ]
        command += ["--virtual-time-budget=5000", f"--window-size={WIDTH + 20},{height}", f"--screenshot={picture}"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--board", action="append", help="only this one; may be given several times")
    parser.add_argument("--chromium", action="store_true", help="also take a picture of each page")
    parser.add_argument("--raw", type=Path, default=EVIDENCE, help="the evidence, without its ending")
    asked = parser.parse_args(arguments)
    raw = read_raw(asked.raw)
    asked.out.mkdir(parents=True, exist_ok=True)
    for board in asked.board or dict.fromkeys(panel["board"] for panel in raw["panels"]):
        drawn = figure([panel for panel in raw["panels"] if panel["board"] == board], raw["seconds"])
        page = (asked.out / f"{board}.html").resolve()
        drawn.write_html(page, config={"displayModeBar": False})
        if asked.chromium:
            screenshot(page, page.with_suffix(".png"), int(drawn.layout.height) + 20)


if __name__ == "__main__":
    main(sys.argv[1:])
