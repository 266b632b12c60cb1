"""How recovery training went, as one page that opens offline: both losses over the training tokens.

The page stands in the variant directory beside the numbers it draws (`recovery.json`), so it must not change from one
writing to the next: its only source is that file.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from artifacts.files import write_text_atomically
from artifacts.recovery import CURVE_NAME, LossCurve
from artifacts.units import format_count
from laws.figures import blank_figure

PAGE_NAME = "recovery.html"
_HELD_OUT_COLOUR = "#0072b2"
_TRAINING_COLOUR = "#d55e00"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recovery: {method}</title>
<style>
body {{ font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2933; margin: 0 auto;
  max-width: 54rem; padding: 1.2rem; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .3rem; }}
p {{ margin: .2rem 0 .8rem; color: #52606d; }}
</style>
</head>
<body>
<h1>{headline}</h1>
<p>{method} on {corpus}, {tokens} training tokens read. Held out: {documents} documents, {held_out_tokens} tokens.</p>
{plot}
<p>Training loss: {objective}.</p>
<script>{script}</script>
{draw}
</body>
</html>
"""


def write_curve_page(folder: Path) -> None:
    """Reads `recovery.json` in `folder` and writes `recovery.html` beside it. Raises ConfigError without the former."""
    write_text_atomically(folder / PAGE_NAME, render_curve(LossCurve.load(folder / CURVE_NAME)))


def render_curve(curve: LossCurve) -> str:
    first, last = curve.points[0], curve.points[-1]
    return _PAGE.format(
        headline=f"Held-out loss {first.held_out_loss_nats:.3f} → {last.held_out_loss_nats:.3f} nats",
        method=escape(curve.method),
        corpus=escape(curve.corpus),
        objective=escape(curve.objective),
        tokens=format_count(last.tokens),
        documents=curve.held_out_documents,
        held_out_tokens=format_count(curve.held_out_tokens),
        plot='<div id="curve"></div>',
        script=get_plotlyjs(),
        draw=_drawing(curve_figure(curve)),
    )


def curve_figure(curve: LossCurve) -> go.Figure:
    """The held-out loss, and the training loss on an axis of its own where it is not in nats per token."""
    figure = blank_figure("training tokens read", "held-out loss, nats per token")
    held_out: list[tuple[int, float | None, str]] = [
        (point.tokens, point.held_out_loss_nats, point.stage) for point in curve.points
    ]
    figure.add_scatter(**_line("held out", held_out, _HELD_OUT_COLOUR, "circle"))
    line = _line("training", training_points(curve), _TRAINING_COLOUR, "square")
    if "nats" in curve.objective:
        figure.add_scatter(**line)
    else:
        figure.add_scatter(**line, yaxis="y2")
        axis = {"title": "training loss", "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
        figure.update_layout(yaxis2={**axis, "automargin": True, "rangemode": "tozero"})
    return figure


def training_points(curve: LossCurve) -> list[tuple[int, float | None, str]]:
    """(tokens, loss, stage), with a gap before each further stage: losses of different stages are no one line."""
    seen = [point for point in curve.points if point.training_loss is not None]
    points: list[tuple[int, float | None, str]] = []
    for point in seen:
        if points and points[-1][2] != point.stage:
            points.append((point.tokens, None, point.stage))
        points.append((point.tokens, point.training_loss, point.stage))
    return points


def _line(name: str, points: list[tuple[int, float | None, str]], colour: str, symbol: str) -> dict[str, object]:
    return {
        "x": [tokens for tokens, _, _ in points],
        "y": [loss for _, loss, _ in points],
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2.5},
        "marker": {"symbol": symbol, "size": 8},
        "text": [stage for _, _, stage in points],
        "hovertemplate": "%{y:.4f} after %{x:,} tokens (%{text})",
    }


def _drawing(figure: go.Figure) -> str:
    return (
        f"<script>const drawn = {figure.to_json()};"
        'Plotly.newPlot("curve", drawn.data, drawn.layout, {displayModeBar: false, responsive: true});</script>'
    )
