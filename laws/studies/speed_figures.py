"""Pictures of what pruning buys: speed against the ratio and the load, and speed times the quality that is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from laws.claims.evidence import grouped
from laws.claims.speed_claims import kept_share
from laws.critical import along_ratios
from laws.figures import COLOURS, REFERENCE_COLOUR, SYMBOLS, blank_figure
from laws.forms import TIME_SHARE
from laws.studies.comparison import RAW, Analysis
from laws.studies.loss_figures import over_ratios, place_of
from laws.studies.predictions import fit_time_share
from laws.studies.speeds import SpeedPoint, load_order, speed_points

_SMOOTH = np.linspace(0, 0.92, 47)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def ratio_figure(analysis: Analysis, mode: str) -> go.Figure | None:
    """Speed-ups with intervals against r; lines: the share of the time that shrinks with r (Amdahl), fitted."""
    points = [point for point in speed_points(analysis.study) if point.at.mode == mode]
    if not points:
        return None
    figure = over_ratios("speed-up over the dense model")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    arms = grouped(points, lambda p: (p.method, p.cell.model, p.at.level))
    rest = tuple(dict.fromkeys(arm[1:] for arm in arms))
    for arm, mine in arms.items():
        colour = COLOURS[place_of(analysis.study, arm[0]) % len(COLOURS)]
        symbol = SYMBOLS[rest.index(arm[1:]) % len(SYMBOLS)]
        dash = _DASHES[rest.index(arm[1:]) % len(_DASHES)]
        _add_points(figure, " · ".join(_several(arm, arms)), mine, colour, symbol)
        law = fit_time_share(mine)
        if law is not None:
            figure.add_scatter(
                x=_SMOOTH,
                y=TIME_SHARE(law.fit.values, along_ratios(_SMOOTH, 1.0, 0, RAW)),
                mode="lines",
                line={"color": colour, "dash": dash, "width": 1.5},
                legendgroup=" · ".join(_several(arm, arms)),
                showlegend=False,
                hoverinfo="skip",
            )
    return figure


def _several(arm: tuple[str, ...], arms: Collection[tuple[str, ...]]) -> list[str]:
    """The parts of the name that tell arms apart; the method where none does."""
    parts = [part for place, part in enumerate(arm) if len({other[place] for other in arms}) > 1]
    return parts or [arm[0]]


def _add_points(figure: go.Figure, name: str, points: Sequence[SpeedPoint], colour: str, symbol: str) -> None:
    values = [point.at.speedup for point in points]
    figure.add_scatter(
        x=[point.cell.ratio for point in points],
        y=values,
        error_y={
            "type": "data",
            "array": [(point.at.high or value) - value for point, value in zip(points, values, strict=True)],
            "arrayminus": [value - (point.at.low or value) for point, value in zip(points, values, strict=True)],
            "thickness": 1.2,
            "width": 3,
        },
        mode="markers",
        name=name,
        legendgroup=name,
        marker={"color": colour, "symbol": symbol, "size": 8},
        hovertemplate="%{y:.2f}× at r = %{x}",
    )


def load_figure(analysis: Analysis) -> go.Figure | None:
    """Speed-up against the load, a line per ratio, darker for more: of the arm with the most ratios and parameters."""
    points = [point for point in speed_points(analysis.study) if point.at.mode == "serving"]
    levels = sorted({point.at.level for point in points}, key=load_order)
    if len(levels) < 2:
        return None
    arms = grouped(points, lambda p: (p.method, p.cell.model, p.base_params))
    method, model, _ = max(arms, key=lambda arm: (len({p.cell.ratio for p in arms[arm]}), arm[2]))
    mine = grouped(arms[method, model, _], lambda p: p.cell.ratio)
    figure = blank_figure("", f"speed-up of {model} {method}")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    for ratio, row in sorted(mine.items()):
        at = {point.at.level: point.at.speedup for point in row}
        figure.add_scatter(
            x=[level for level in levels if level in at],
            y=[at[level] for level in levels if level in at],
            mode="lines+markers",
            name=f"r = {ratio:g}",
            opacity=0.35 + 0.65 * ratio,
            line={"color": COLOURS[0], "width": 1 + 2.5 * ratio},
            hovertemplate="%{y:.2f}×",
        )
    figure.update_xaxes(type="category")
    return figure


def quality_adjusted_figure(analysis: Analysis) -> go.Figure | None:
    """Speed-up times the accuracy that is kept, at the highest load of the mode that users meet.

    Above 1 the speed makes up for the loss, by this count.
    """
    rows = [(point, kept) for point in speed_points(analysis.study) if (kept := kept_share(analysis, point))]
    if not rows:
        return None
    last = max((point.at.mode, load_order(point.at.level)) for point, _ in rows)
    rows = [row for row in rows if (row[0].at.mode, load_order(row[0].at.level)) == last]
    figure = over_ratios("speed-up × accuracy kept")
    figure.update_xaxes(title=f"ratio r, at {last[1][2]}")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    arms = grouped(rows, lambda row: (row[0].method, row[0].cell.model, row[0].at.level))
    rest = tuple(dict.fromkeys(arm[1:] for arm in arms))
    for arm, mine in arms.items():
        ordered = sorted(mine, key=lambda row: row[0].cell.ratio)
        figure.add_scatter(
            x=[point.cell.ratio for point, _ in ordered],
            y=[point.at.speedup * kept.value for point, kept in ordered],
            text=[f"{point.at.speedup:.2f}× × {kept.value:.0%}" for point, kept in ordered],
            mode="lines+markers",
            name=" · ".join(_several(arm, arms)),
            line={
                "color": COLOURS[place_of(analysis.study, arm[0]) % len(COLOURS)],
                "dash": _DASHES[rest.index(arm[1:]) % len(_DASHES)],
                "width": 2,
            },
            marker={"symbol": SYMBOLS[rest.index(arm[1:]) % len(SYMBOLS)], "size": 8},
            hovertemplate="%{y:.2f} = %{text}",
        )
    return figure
