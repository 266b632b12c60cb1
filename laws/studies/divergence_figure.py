"""Beside the loss, how far predictions moved: the Jensen-Shannon divergence from the dense model, against the ratio.

A loss can stay while answers change (arXiv 2409.11233); this divergence is bounded, so that methods and texts compare.
"""

from __future__ import annotations

from math import log
from statistics import fmean

import plotly.graph_objects as go

from artifacts.study import CellRecord
from laws.claims.evidence import grouped
from laws.figures import REFERENCE_COLOUR
from laws.studies.comparison import Analysis
from laws.studies.loss_figures import lines_of, over_ratios


def divergence_figure(analysis: Analysis, name: str) -> go.Figure | None:
    """Every cell's divergence on a text in nats, and the means over seeds as lines; None where it was not measured."""
    lines = [
        (line, points)
        for line in lines_of(analysis, "loss", name)
        if (points := [(cell, nats) for cell in line.cells if (nats := divergence_of(cell, name)) is not None])
    ]
    if not lines:
        return None
    figure = over_ratios("Jensen-Shannon divergence from dense, nats")
    figure.add_hline(y=log(2), line={"color": REFERENCE_COLOUR, "width": 1}, annotation_text="ln 2, the most there is")
    for line, points in lines:
        figure.add_scatter(
            x=[cell.ratio for cell, _ in points],
            y=[nats for _, nats in points],
            text=[f"{cell.model}, seed {cell.seed}" for cell, _ in points],
            mode="markers",
            name=line.name,
            legendgroup=line.name,
            marker={"symbol": line.symbol, "size": 6, "color": line.colour, "opacity": 0.65},
            hovertemplate="%{text}: %{y:.4f} nats",
        )
        for model, own in grouped(points, lambda point: point[0].model).items():
            means = {ratio: fmean(n for _, n in at) for ratio, at in grouped(own, lambda p: p[0].ratio).items()}
            figure.add_scatter(
                x=sorted(means),
                y=[means[ratio] for ratio in sorted(means)],
                mode="lines",
                name=f"{line.name}, {model}",
                legendgroup=line.name,
                showlegend=False,
                hoverinfo="skip",
                line={"color": line.colour, "width": 1.5, "dash": line.dash},
            )
    return figure


def divergence_of(cell: CellRecord, name: str) -> float | None:
    """Nats on a text, None where the study did not ask for it."""
    return next((loss.js_nats for loss in cell.losses if loss.set == name), None)
