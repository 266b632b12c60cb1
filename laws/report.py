"""Writes the report: one HTML file that opens offline, and its numbers as JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically
from artifacts.run import Estimate, Gate
from artifacts.units import format_bytes, format_count, format_ratio, format_seconds, quantity
from artifacts.variant import TEXT_METRICS, UNACCELERATED
from laws.figures import colour_of
from laws.findings import (
    HEADLINE,
    SPEEDUPS,
    Findings,
    LevelFinding,
    gather_findings,
    quality_protocol,
    quality_value,
    task_records,
)
from laws.panels import PANELS, WIDE
from laws.roofline import Hardware

GateState = Literal["failed", "left out", "overload", "passed"]
_GATE_ORDER: tuple[GateState, ...] = ("failed", "left out", "overload", "passed")
_PLOT_CONFIG = {"displayModeBar": False, "responsive": True}


def write_report(folders: list[Path], out: Path, hardware_file: Path | None = None) -> dict[str, Any]:
    """Reads runs, comparisons, searches and sweeps, writes `out` and the `.json` beside it; returns what to print.

    Raises ConfigError if a folder holds none of them, the runs do not belong together, or `out` is a folder.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder. Give the name of the HTML file to write, e.g. {out / 'report.html'}.")
    hardware = Hardware.load(hardware_file) if hardware_file else None
    findings = gather_findings(folders, hardware)
    data = out.with_suffix(".json")
    findings.save(data)
    write_text_atomically(out, render(findings))
    return {"report": str(out), "data": str(data), "valid": findings.valid, "verdicts": headline_rows(findings)}


def render(findings: Findings) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        bytes=format_bytes,
        count=format_count,
        share=format_ratio,
        seconds=format_seconds,
        ratio=format_estimate,
        quantity=quantity,
    )
    environment.filters["zipped"] = lambda rows: zip(*rows, strict=True)
    return environment.get_template("report.html.jinja").render(
        findings=findings,
        headlines=headline_rows(findings),
        wide=WIDE,
        panels=[(name, title, figure_as_div(figure)) for name, title, draw in PANELS if (figure := draw(findings))],
        plotly_js=get_plotlyjs(),
        protocol=quality_protocol(findings.variants),
        quality={name: _quality_row(findings, name) for name in findings.models if name in findings.variants},
        tasks=[(name, r) for name, manifest in findings.variants.items() for r in task_records(manifest)],
        masked=[name for name, manifest in findings.variants.items() if manifest.sparsity],
        unaccelerated=UNACCELERATED,
        speedups=SPEEDUPS,
        gates=gate_rows(findings),
    )


def gate_rows(findings: Findings) -> list[tuple[str, Gate, GateState]]:
    """Every gate of every level: those that spoil a run first, what passed last."""
    rows = [(level.label, gate, _gate_state(level, gate)) for level in findings.levels for gate in level.gates]
    for search in findings.searches:
        looks = [(v.model, at.rate_per_s, look) for v in search.variants for at in v.levels for look in at.looks]
        rows += [(f"{m}, {rate:g} requests/s", g, "left out") for m, rate, look in looks for g in look.failed_gates]
    return sorted(rows, key=lambda row: _GATE_ORDER.index(row[2]))


def _gate_state(level: LevelFinding, gate: Gate) -> GateState:
    if gate.passed:
        return "passed"
    return "overload" if level.valid else "failed"


def headline_rows(findings: Findings) -> list[dict[str, Any]]:
    """Per variant: the headline ratio at every level and the headline's, and the rise in held-out loss."""
    headline = findings.headline_level
    dense = findings.variants.get(findings.reference or "")
    dense_loss = quality_value(dense, "loss_nats") if dense else None
    if headline is None:
        return []
    rows: list[dict[str, Any]] = []
    for model in headline.speedups:
        manifest = findings.variants.get(model)
        loss = quality_value(manifest, "loss_nats") if manifest else None
        at_levels = [(lv.label, lv.speedups[model][HEADLINE]) for lv in findings.levels if model in lv.speedups]
        speedup = headline.speedups[model][HEADLINE]
        rows.append(
            {
                "model": model,
                "colour": colour_of(model, findings),
                "levels": [{"level": label, **estimate.model_dump()} for label, estimate in at_levels],
                "speedup": speedup.model_dump(),
                "level": headline.label,
                "faster": _verdict(findings, headline.label, model) or _is_faster(speedup),
                "loss_rise_nats": None if loss is None or dense_loss is None else loss - dense_loss,
                "params_removed": manifest.ratios.params_total if manifest else None,
                "weights_masked": manifest.sparsity.share if manifest and manifest.sparsity else None,
            }
        )
    return rows


def format_estimate(estimate: Estimate | dict[str, Any]) -> str:
    """`1.31× [1.27, 1.35]`; without an interval, the value alone."""
    e = Estimate.model_validate(estimate) if isinstance(estimate, dict) else estimate
    if e.low is None or e.high is None:
        return f"{e.value:.2f}×"
    return f"{e.value:.2f}× [{e.low:.2f}, {e.high:.2f}]"


def _verdict(findings: Findings, level: str, model: str) -> str | None:
    """A comparison's, which is corrected for how much was asked; None where there was none at this level."""
    asked = [question for campaign in findings.campaigns for question in campaign.questions]
    return next((q.verdict for q in asked if (q.level, q.model, q.measure) == (level, model, HEADLINE)), None)


def _is_faster(estimate: Estimate) -> str:
    if estimate.low is not None and estimate.low > 1:
        return "faster"
    if estimate.high is not None and estimate.high < 1:
        return "slower"
    return "no difference shown"


def _quality_row(findings: Findings, model: str) -> dict[str, float | None]:
    return {metric: quality_value(findings.variants[model], metric) for metric in TEXT_METRICS}


def figure_as_div(figure: go.Figure) -> str:
    """A figure as HTML, for a page that carries plotly itself."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_PLOT_CONFIG, default_width="100%"))
