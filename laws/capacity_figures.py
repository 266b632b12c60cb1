"""Pictures of how much a server can do: fronts of throughput against user speed, and rates tried within an SLO."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from artifacts.capacity import VariantCapacity
from artifacts.sweep import Sweep, SweptVariant
from laws.figures import blank_figure, colour_of, line_style
from laws.findings import Findings

_TICKS = 5
_VERDICT_SYMBOLS = {"met": "circle", "missed": "x", "undecided": "diamond-open", "unusable": "circle-open"}


def front_figure(findings: Findings) -> go.Figure | None:
    """Each variant's Pareto front as a staircase; faint points are on none. Shaded: where a variant beats the first.

    Shading is drawn for a single other variant only, as several would cover each other; the table has them all.
    """
    if not findings.sweeps:
        return None
    figure = blank_figure("tokens/s of one user", "server: tokens/s")
    for sweep in findings.sweeps:
        for variant in sweep.variants:
            _add_front(figure, variant, findings)
        if len(sweep.dominance) == 1:
            _shade(figure, sweep, findings)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


def _add_front(figure: go.Figure, variant: SweptVariant, findings: Findings) -> None:
    places = [(point, point.place) for point in variant.points if point.place is not None]
    style = line_style(variant.model, findings) | {"hovertemplate": "%{text}: %{x:.4g} and %{y:.4g} tokens/s"}
    front = sorted((place, point.level.label) for point, place in places if point.on_front)
    off = [(place, point.level.label) for point, place in places if not point.on_front]
    style["line"] = {**style["line"], "shape": "vh"}
    figure.add_scatter(x=[p[0] for p, _ in front], y=[p[1] for p, _ in front], text=[t for _, t in front], **style)
    if off:
        rest = {"mode": "markers", "opacity": 0.35, "showlegend": False}
        figure.add_scatter(x=[p[0] for p, _ in off], y=[p[1] for p, _ in off], text=[t for _, t in off], **style | rest)


def _shade(figure: go.Figure, sweep: Sweep, findings: Findings) -> None:
    for area in sweep.dominance[0].areas:
        if area.winner is not None:
            colour = colour_of(area.winner, findings)
            figure.add_vrect(
                x0=area.from_per_user, x1=area.to_per_user, fillcolor=colour, opacity=0.08, line_width=0, layer="below"
            )


def capacity_figure(findings: Findings) -> go.Figure | None:
    """Every rate that was tried for each variant; thick: the bracket of the highest rate that meets the SLO."""
    if not findings.searches:
        return None
    figure = blank_figure("requests/s", "")
    rows = [(search, variant) for search in findings.searches for variant in search.variants]
    for search, variant in rows:
        several = f"<br>{search.slo.text}" if len(findings.searches) > 1 else ""
        _add_rates(figure, variant, f"{variant.model}{several}", colour_of(variant.model, findings))
    for verdict, symbol in _VERDICT_SYMBOLS.items():
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=verdict, marker={"symbol": symbol, "size": 10, "color": "#1f2933"}
        )
    figure.update_layout(height=150 + 60 * len(rows), legend={"itemclick": False})
    rates = [level.rate_per_s for _, variant in rows for level in variant.levels]
    ticks = [float(f"{rate:.2g}") for rate in np.geomspace(min(rates), max(rates), _TICKS)] if rates else []
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _add_rates(figure: go.Figure, variant: VariantCapacity, row: str, colour: str) -> None:
    if variant.rate_per_s is not None and variant.above_per_s is not None:
        bracket = {"mode": "lines", "line": {"color": colour, "width": 12}, "opacity": 0.35, "hoverinfo": "skip"}
        figure.add_scatter(x=[variant.rate_per_s, variant.above_per_s], y=[row, row], showlegend=False, **bracket)
    figure.add_scatter(
        x=[level.rate_per_s for level in variant.levels],
        y=[row] * len(variant.levels),
        text=[level.verdict for level in variant.levels],
        mode="markers",
        marker={"symbol": [_VERDICT_SYMBOLS[v.verdict] for v in variant.levels], "size": 10, "color": colour},
        hovertemplate="%{x:.4g} requests/s: %{text}",
        name=variant.model,
        showlegend=False,
    )
