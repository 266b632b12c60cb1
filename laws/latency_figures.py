"""Pictures of waiting: percentiles of a latency against load, and how the single requests at one level are spread."""

from __future__ import annotations

import plotly.graph_objects as go

from laws.figures import blank_figure, level_figure, line_style, measure_of
from laws.findings import Findings

_DASHES = {50: "solid", 90: "dash", 99: "dot"}


def latency_figure(findings: Findings, quantity: str) -> go.Figure | None:
    """`quantity` in ms at each level: p50 solid, p90 dashed, p99 dotted, each where enough samples certify it."""
    figure = level_figure(findings, "ms")
    for model in findings.models:
        named = False
        for percentile, dash in _DASHES.items():
            measure = f"{quantity}_p{percentile}_s"
            known = [
                (level.label, value * 1e3)
                for level in findings.levels
                if (value := measure_of(level, model, measure)) is not None
            ]
            if known:
                style = line_style(model, findings, dash=dash)
                hover = {"hovertemplate": f"p{percentile}: %{{y:.4g}} ms", "showlegend": not named}
                x, y = zip(*known, strict=True)
                figure.add_scatter(x=x, y=y, legendgroup=model, **style | hover)
                named = True
    figure.update_yaxes(rangemode="tozero")
    return figure if figure.data else None


def ecdf_figure(findings: Findings, quantity: str) -> go.Figure | None:
    """The share of requests at or below each latency, at the highest level that kept its requests."""
    kept = [level for level in findings.levels if any(quantity in of for of in level.distributions.values())]
    if not kept:
        return None
    level = kept[-1]
    figure = blank_figure(f"ms, at {level.label}", "share of requests")
    for model, of_model in level.distributions.items():
        if quantity in of_model:
            found = of_model[quantity]
            style = line_style(model, findings) | {"mode": "lines", "hovertemplate": "%{y:.1%} within %{x:.4g} ms"}
            style["line"] = {**style["line"], "shape": "hv"}
            x = [found.values_s[0] * 1e3, *(value * 1e3 for value in found.values_s)]
            figure.add_scatter(x=x, y=[0, *found.shares], **style)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure
