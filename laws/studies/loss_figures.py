"""Pictures of what pruning costs: values against the ratio with the law that predicts best, what recovery wins back, up
to which ratio, and what the laws leave over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import plotly.graph_objects as go

from artifacts.study import NO_RECOVERY, CellRecord
from laws.claims.evidence import grouped
from laws.claims.law_claims import seen_critical_ratio
from laws.claims.recovery_claims import gains_of
from laws.critical import along_ratios
from laws.figures import COLOURS, REFERENCE_COLOUR, SYMBOLS, blank_figure
from laws.fits.bootstrap import expanded_interval
from laws.fits.fit import Fitted
from laws.forms import Floats
from laws.studies.comparison import KEPT, Analysis
from laws.studies.records import MEAN_OF_TASKS, Study, method_label
from laws.studies.samples import Kind, Scope, cells_of, sample_of, scopes_of

_SMOOTH = np.linspace(0.02, 0.92, 46)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scope at one budget: its cells, its colour and dash."""

    scope: Scope
    tokens: int
    cells: tuple[CellRecord, ...]
    colour: str
    symbol: str
    dash: str

    @property
    def name(self) -> str:
        recovered = "" if not self.tokens else f", {self.scope.recovery} {self.tokens / 1e6:g} M"
        return f"{self.scope.method}{recovered}"


def value_figure(analysis: Analysis, kind: Kind, name: str) -> go.Figure | None:
    """Every cell over its dense model's value, and the best law of each method as a line with its 95 % band."""
    lines = lines_of(analysis, kind, name)
    if not lines:
        return None
    figure = over_ratios(f"{kind} / dense {kind}")
    figure.add_hline(y=1, line={"color": REFERENCE_COLOUR, "width": 1})
    for line in lines:
        _add_law(figure, analysis, line)
        pairs = [(cell, line.scope.value_of(cell)) for cell in line.cells]
        figure.add_scatter(
            x=[cell.ratio for cell, _ in pairs],
            y=[pair[0] / pair[1] for _, pair in pairs if pair],
            text=[f"{cell.model}, seed {cell.seed}: {pair[0]:.4g}" for cell, pair in pairs if pair],
            mode="markers",
            name=line.name,
            legendgroup=line.name,
            marker={"symbol": line.symbol, "size": 6, "color": line.colour, "opacity": 0.65},
            hovertemplate="%{text} (%{y:.3f} of dense)",
        )
    return figure


def over_ratios(y_title: str) -> go.Figure:
    """A figure over all ratios there can be, so that those of one page compare."""
    figure = blank_figure("ratio r", y_title)
    figure.update_xaxes(range=[0, 0.97])
    return figure


def place_of(study: Study, method: str) -> int:
    """Of a method among all that prune: on a page it has one colour, whichever others a picture shows."""
    return list(dict.fromkeys(method_label(cell) for cell in study.cells if cell.ratio > 0)).index(method)


def lines_of(analysis: Analysis, kind: Kind, name: str) -> list[Line]:
    """Without recovery and with the most of it, for each method; colours by method."""
    scopes = [scope for scope in scopes_of(analysis.study, kind) if scope.name == name]
    found = []
    for scope in scopes:
        cells = [cell for cell in cells_of(analysis.study, scope) if cell.recovery == scope.recovery]
        tokens = max(cell.recovery_tokens for cell in cells)
        place = place_of(analysis.study, scope.method)
        found.append(
            Line(
                scope=scope,
                tokens=tokens,
                cells=tuple(cell for cell in cells if cell.recovery_tokens == tokens),
                colour=COLOURS[place % len(COLOURS)],
                symbol=SYMBOLS[place % len(SYMBOLS)] + ("-open" if tokens else ""),
                dash="dash" if tokens else "solid",
            )
        )
    return found


def _add_law(figure: go.Figure, analysis: Analysis, line: Line) -> None:
    comparison = analysis.of(line.scope)
    best = comparison.best if comparison else None
    found = analysis.fitted.get((line.scope, best.name)) if best else None
    if found is None or best is None:
        return
    bases = sorted({pair[1] for cell in line.cells if (pair := line.scope.value_of(cell))})
    middle, low, high = _curve(found, bases, line.tokens)
    style = {"mode": "lines", "legendgroup": line.name, "showlegend": False, "hoverinfo": "skip"}
    if low is not None and high is not None:
        ends = {"x": [*_SMOOTH, *_SMOOTH[::-1]], "y": [*high, *low[::-1]]}
        figure.add_scatter(**ends, fill="toself", fillcolor=line.colour, opacity=0.15, line={"width": 0}, **style)
    stroke = {"color": line.colour, "width": 2, "dash": line.dash}
    figure.add_scatter(x=_SMOOTH, y=middle, line=stroke, **style | {"name": f"{line.name}: {best.name}"})


def _curve(found: Fitted, bases: Sequence[float], tokens: int) -> tuple[Floats, Floats | None, Floats | None]:
    """The law over its dense value, averaged over the models, with the band of its parameters."""
    fit, several = found.fit, len(found.spread) > 0
    parts = [along_ratios(_SMOOTH, base, tokens, fit.d_unit) for base in bases]
    middle = np.mean([np.asarray(fit.form(fit.values, at)) / at.base for at in parts], axis=0)
    if not several:
        return middle, None, None
    drawn = np.mean([fit.form(found.sets, at) / at.base for at in parts], axis=0)
    low, high = expanded_interval(drawn, fit.clusters, len(fit.parameters))
    return middle, low, high


def recovery_figure(analysis: Analysis, name: str) -> go.Figure | None:
    """The share of the pruned model's loss that recovery takes away, against r, a line per method and budget."""
    study = analysis.study
    pruned = [cell for cell in study.cells if cell.ratio > 0]
    figure = over_ratios("share of the loss won back")
    figure.add_hline(y=0, line={"color": REFERENCE_COLOUR, "width": 1})
    drawn = False
    for place, (method, cells) in enumerate(grouped(pruned, method_label).items()):
        gains = gains_of(cells, name)
        budgets = sorted({(key.recovery, key.recovery_tokens) for key in gains})
        for number, (recovery, tokens) in enumerate(budgets):
            by_ratio = grouped([k for k in gains if k[-2:] == (recovery, tokens)], lambda key: key.ratio)
            means = {r: fmean(gain for key in keys for gain in gains[key]) for r, keys in sorted(by_ratio.items())}
            drawn = True
            figure.add_scatter(
                x=list(means),
                y=list(means.values()),
                mode="lines+markers",
                name=f"{method}, {recovery} {tokens / 1e6:g} M",
                line={"color": COLOURS[place % len(COLOURS)], "dash": _DASHES[number % len(_DASHES)], "width": 2},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
                hovertemplate="%{y:.1%} at r = %{x}",
            )
    figure.update_yaxes(tickformat=".3~%")
    return figure if drawn else None


def critical_figure(analysis: Analysis) -> go.Figure | None:
    """The laws' critical ratios with intervals; crosses: where the means of the measured values cross."""
    rows = [
        (comparison, law, critical)
        for comparison in analysis.comparisons
        for law in comparison.laws
        if law.name in ("v1", "v2")
        for critical in law.critical
    ]
    if not rows:
        return None
    figure = blank_figure("critical ratio", "")
    for place, name in enumerate(("v1", "v2")):
        mine = [(c.scope, critical) for c, law, critical in rows if law.name == name]
        values = [critical.ratio for _, critical in mine]
        figure.add_scatter(
            x=values,
            y=[_row(label, critical.kept) for label, critical in mine],
            error_x={
                "type": "data",
                "array": [(c.high if c.high is not None else c.ratio) - c.ratio for _, c in mine],
                "arrayminus": [c.ratio - (c.low if c.low is not None else c.ratio) for _, c in mine],
            },
            mode="markers",
            name=f"by the law {name}",
            marker={"color": COLOURS[place], "symbol": SYMBOLS[place], "size": 9},
            hovertemplate="r = %{x:.2f}",
        )
    _add_seen(figure, analysis)
    labels = {_row(c.scope, k.kept) for c, _, k in rows}
    figure.update_layout(height=140 + 40 * len(labels))
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(autorange="reversed")
    return figure


def _add_seen(figure: go.Figure, analysis: Analysis) -> None:
    seen = [
        (_row(c.scope, kept), seen_critical_ratio(analysis, c.scope, kept))
        for c in analysis.comparisons
        for kept in KEPT[c.kind]
    ]
    if seen:
        marker = {"symbol": "x", "size": 9, "color": REFERENCE_COLOUR}
        figure.add_scatter(
            x=[at for _, at in seen], y=[label for label, _ in seen], mode="markers", name="seen", marker=marker
        )


def _row(scope: Scope, kept: float) -> str:
    """In two short lines, for a phone."""
    method, name = scope.label.split(" · ")
    return f"{method}<br>{'accuracy' if name == MEAN_OF_TASKS else name}, {kept:g} ×"


def residual_figure(analysis: Analysis, kind: Kind, name: str) -> go.Figure | None:
    """What v1 and the best law leave over, against r: a law of the wrong form shows as a bend."""
    figure = over_ratios("log(measured / law)")
    figure.add_hline(y=0, line={"color": REFERENCE_COLOUR, "width": 1})
    drawn = False
    for scope in scopes_of(analysis.study, kind):
        if scope.name != name or scope.recovery != NO_RECOVERY:
            continue
        place = place_of(analysis.study, scope.method)
        comparison = analysis.of(scope)
        names = dict.fromkeys(law.name for law in (comparison.law("v1"), comparison.best) if law) if comparison else {}
        for law in names:
            found = analysis.fitted[scope, law]
            sample = sample_of(analysis.study, scope, d_unit=found.fit.d_unit)
            ratio = np.asarray(found.fit.form(found.fit.values, sample.at), dtype=float)
            drawn = True
            figure.add_scatter(
                x=sample.at.ratio,
                y=np.log(sample.observed / np.where(ratio > 0, ratio, np.nan)),
                mode="markers",
                name=f"{scope.method}: {law}",
                marker={
                    "color": COLOURS[place % len(COLOURS)],
                    "symbol": "circle" if law == "v1" else "x",
                    "size": 7,
                    "opacity": 0.7,
                },
                hovertemplate="%{y:+.3f} at r = %{x}",
            )
    return figure if drawn else None
