"""Energy against load: what a token costs where the machine is busy, and where it mostly waits."""

from __future__ import annotations

import plotly.graph_objects as go

from artifacts.energy import KINDS
from laws.figures import level_figure, line_style
from laws.findings import Findings

_DASHES = dict(zip(KINDS, ("solid", "dot"), strict=True))


def energy_figure(findings: Findings) -> go.Figure | None:
    """Joules per output token at each level, a line per model and kind of device; None where no meter was read."""
    rows = [row for row in findings.energy if not row.control and row.used.joules_per_token is not None]
    if not rows:
        return None
    figure = level_figure(findings, "J per output token")
    several = len({row.used.kind for row in rows}) > 1
    for kind in KINDS:
        for model in findings.models:
            points = [(r.level, r.used.joules_per_token) for r in rows if (r.used.kind, r.used.model) == (kind, model)]
            if points:
                style = line_style(model, findings, _DASHES[kind])
                name = f"{model}, {kind.upper()}" if several else model
                figure.add_scatter(x=[x for x, _ in points], y=[y for _, y in points], **style | {"name": name})
    figure.update_yaxes(rangemode="tozero")
    return figure
