"""The report's pictures. Each function turns findings into one plotly figure; None where there is nothing to draw."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from artifacts.variant import VariantManifest
from laws.findings import HEADLINE, Findings, LevelFinding, quality_value

# Okabe and Ito's colours: told apart by every kind of colour vision. The reference is grey.
REFERENCE_COLOUR = "#5f6b7a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a08000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
_CLOSED = "concurrency"
_RATIO_NAMES = {
    "nominal": "nominal",
    "params_blocks": "block parameters",
    "params_total": "all parameters",
    "flops_per_token": "FLOPs per token",
    "kv_bytes_per_token": "KV bytes per token",
}


def colour_of(model: str, findings: Findings) -> str:
    if model == findings.reference:
        return REFERENCE_COLOUR
    others = [name for name in findings.models if name != findings.reference]
    return COLOURS[others.index(model) % len(COLOURS)]


def speedup_figure(findings: Findings) -> go.Figure | None:
    """Throughput ratio to the reference at each level, with intervals; dotted: what the roofline predicts."""
    if findings.reference is None or not findings.levels:
        return None
    figure = level_figure(findings, f"tokens/s, ratio to {findings.reference}")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    for model in findings.models:
        points = [(lv.label, lv.speedups[model][HEADLINE]) for lv in findings.levels if model in lv.speedups]
        if not points:
            continue
        values = [e.value for _, e in points]
        figure.add_scatter(
            x=[label for label, _ in points],
            y=values,
            error_y={
                "type": "data",
                "array": [(e.high or e.value) - e.value for _, e in points],
                "arrayminus": [e.value - (e.low or e.value) for _, e in points],
                "thickness": 1.5,
                "width": 5,
            },
            **line_style(model, findings),
        )
        _add_prediction(figure, model, findings)
    return figure


def _add_prediction(figure: go.Figure, model: str, findings: Findings) -> None:
    rows = [row for row in findings.ceilings if row.model == model and row.predicted_speedup is not None]
    if rows:
        figure.add_scatter(
            x=[row.level for row in rows],
            y=[row.predicted_speedup for row in rows],
            mode="lines",
            line={"dash": "dot", "width": 1.5, "color": colour_of(model, findings)},
            name=f"{model}, roofline",
            hovertemplate="%{y:.2f}×",
        )


def load_figure(findings: Findings, measure: str, title: str, scale: float = 1.0) -> go.Figure | None:
    """One measure against load, a line per model. `scale` turns seconds into milliseconds."""
    figure = level_figure(findings, title)
    drawn = False
    for model in findings.models:
        points = [
            (level.label, value * scale)
            for level in findings.levels
            if (value := measure_of(level, model, measure)) is not None
        ]
        drawn = drawn or bool(points)
        figure.add_scatter(x=[x for x, _ in points], y=[y for _, y in points], **line_style(model, findings))
    figure.update_yaxes(rangemode="tozero")
    return figure if drawn else None


def pareto_figure(findings: Findings) -> go.Figure | None:
    """Throughput of the server against the speed one user sees; a sweep's picture has more to say, if there is one."""
    if findings.sweeps:
        return None
    figure = blank_figure("tokens/s of one user", "server: tokens/s")
    drawn = False
    for model in findings.models:
        points = [_pareto_point(level, model) for level in findings.levels]
        known = [point for point in points if point is not None]
        drawn = drawn or bool(known)
        figure.add_scatter(x=[x for x, _ in known], y=[y for _, y in known], **line_style(model, findings))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure if drawn else None


def _pareto_point(level: LevelFinding, model: str) -> tuple[float, float] | None:
    tpot_s, tokens_per_s = (measure_of(level, model, name) for name in ("tpot_p50_s", "output_tokens_per_s"))
    return None if not tpot_s or tokens_per_s is None else (1 / tpot_s, tokens_per_s)


def trade_figure(findings: Findings) -> go.Figure | None:
    """What is gained against what is lost: throughput ratio at the headline's level over the rise in held-out loss."""
    dense = findings.variants.get(findings.reference or "")
    dense_loss = quality_value(dense, "loss_nats") if dense else None
    level = findings.headline_level
    if dense_loss is None or level is None:
        return None
    figure = blank_figure("rise in held-out loss, nats", f"tokens/s ratio at {level.label}")
    figure.add_scatter(x=[0], y=[1], **_point_style(findings.reference or "", findings))
    for model, speedups in level.speedups.items():
        manifest = findings.variants.get(model)
        loss = quality_value(manifest, "loss_nats") if manifest else None
        if loss is not None:
            point = _point_style(model, findings)
            figure.add_scatter(x=[loss - dense_loss], y=[speedups[HEADLINE].value], **point)
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    figure.update_layout(showlegend=False)
    return figure


def ratios_figure(findings: Findings) -> go.Figure | None:
    """The five removed shares of each variant."""
    pruned = _pruned(findings)
    if not pruned:
        return None
    figure = blank_figure("removed share", "")
    for name, manifest in pruned.items():
        shares = [getattr(manifest.ratios, field) * 100 for field in _RATIO_NAMES]
        figure.add_bar(
            y=list(_RATIO_NAMES.values()),
            x=shares,
            orientation="h",
            name=name,
            marker_color=colour_of(name, findings),
            text=[f"{share:.0f} %" for share in shares],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x:.1f} %",
        )
    figure.update_layout(barmode="group", height=120 + 95 * len(pruned))
    figure.update_xaxes(range=[0, 100], ticksuffix=" %")
    figure.update_yaxes(autorange="reversed")
    return figure


def shapes_figure(findings: Findings) -> go.Figure | None:
    """Layer by layer: FFN width and KV groups that are left; pale = much removed."""
    pruned = _pruned(findings)
    if not pruned:
        return None
    rows = list(pruned.items())
    # The reference's layers tell the full width even if every variant lost some.
    full = max(layer.ffn_width for m in findings.variants.values() for layer in m.layers)
    heat = [[_kept_share(layer.present, layer.ffn_width, full) for layer in m.layers] for _, m in rows]
    text = [[f"{s.ffn_width}<br>{s.kv_heads} KV" if s.present else "—" for s in m.layers] for _, m in rows]
    figure = blank_figure("layer of the base model", "")
    figure.add_heatmap(
        z=heat,
        y=[name for name, _ in rows],
        text=text,
        texttemplate="%{text}",
        textfont={"size": 10},
        colorscale=[[0, "#f3f4f6"], [1, "#8fbfe0"]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=3,
        ygap=3,
        hoverinfo="skip",
    )
    figure.update_layout(height=130 + 62 * len(rows))
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(dtick=1, showgrid=False)
    return figure


def blocks_figure(findings: Findings) -> go.Figure | None:
    """The paired ratios block by block at the headline's level: is the interval made of steady blocks or of luck?"""
    level = findings.headline_level
    if level is None or not any(level.block_speedups.values()):
        return None
    figure = blank_figure("block", f"tokens/s ratio at {level.label}")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    for model, ratios in level.block_speedups.items():
        figure.add_scatter(x=list(range(1, len(ratios) + 1)), y=list(ratios), **line_style(model, findings))
    if level.control_blocks:
        figure.add_scatter(
            x=list(range(1, len(level.control_blocks) + 1)),
            y=list(level.control_blocks),
            **line_style(findings.reference or "", findings) | {"name": f"{findings.reference} again (A/A)"},
        )
    figure.update_xaxes(dtick=max(1, len(next(iter(level.block_speedups.values()))) // 10))
    return figure


def _kept_share(present: bool, ffn_width: int, full_width: int) -> float:
    return ffn_width / full_width if present and full_width else 0.0


def _pruned(findings: Findings) -> dict[str, VariantManifest]:
    return {n: findings.variants[n] for n in findings.models if n in findings.variants and n != findings.reference}


def measure_of(level: LevelFinding, model: str, measure: str) -> float | None:
    """None where the model was not measured at the level, or too little to say."""
    return next((arm.measures.get(measure) for arm in level.arms if arm.model == model), None)


def line_style(model: str, findings: Findings, dash: str = "solid") -> dict[str, Any]:
    colour, symbol = colour_of(model, findings), SYMBOLS[findings.models.index(model) % len(SYMBOLS)]
    return {
        "name": model,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2.5, "dash": dash},
        "marker": {"symbol": symbol, "size": 9},
        "hovertemplate": "%{y:.4g}",
    }


def _point_style(model: str, findings: Findings) -> dict[str, object]:
    label: dict[str, object] = {
        "text": [model],
        "textposition": "top center",
        "mode": "markers+text",
        "cliponaxis": False,
    }
    hover = {"hovertemplate": "+%{x:.3f} nats, %{y:.2f}×", "marker": {"size": 13, "color": colour_of(model, findings)}}
    return {"name": model, **label, **hover}


def level_figure(findings: Findings, y_title: str) -> go.Figure:
    """A figure over levels; what all their labels share is said once, as the axis's title."""
    figure = blank_figure("", y_title)
    labels = [level.label for level in findings.levels]
    for shared in (_CLOSED, *(label.partition(" ")[2] for label in labels[:1])):
        short = [label.replace(shared, "", 1).strip().replace(" (", "<br>(") for label in labels]
        if all(shared in label for label in labels) and all(text[:1].isdigit() for text in short):
            figure.update_xaxes(title=shared, type="category", tickvals=labels, ticktext=short)
            break
    return figure


def blank_figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#1f2933"},
        margin={"l": 10, "r": 14, "t": 12, "b": 10},
        height=340,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        hovermode="x unified" if not x_title else "closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    apart = {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}  # the labels of both axes at the corner
    figure.update_xaxes(title=x_title, automargin=True, gridcolor="#e4e7eb", **apart)
    figure.update_yaxes(title=y_title, automargin=True, gridcolor="#e4e7eb", **apart)
    return figure
