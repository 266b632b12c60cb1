"""Writes a study's report: one HTML file that opens offline, verdicts first, and its numbers as JSON beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically
from artifacts.units import format_seconds
from laws.claims.catalogue import CLAIMS
from laws.claims.claim import Number, Verdict
from laws.fits.fit import Parameter
from laws.fits.held_out import Split
from laws.forms import LAWS
from laws.report import figure_as_div
from laws.studies.comparison import SPLITS, Analysis, analyse
from laws.studies.divergence_figure import divergence_figure
from laws.studies.findings import StudyFindings, find
from laws.studies.joining import read_studies
from laws.studies.loss_figures import critical_figure, recovery_figure, residual_figure, value_figure
from laws.studies.records import MEAN_OF_TASKS
from laws.studies.speed_figures import load_figure, quality_adjusted_figure, ratio_figure

_TEMPLATES = Path(__file__).parents[1]
_MINUS = "\N{MINUS SIGN}"


def write_study_report(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Reads studies as one, writes `out` and the `.json` beside it; returns what to print.

    Raises ConfigError if a folder holds no finished cell, if the studies contradict each other, or `out` is a folder.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder. Give the name of the HTML file to write, e.g. {out / 'study.html'}.")
    analysis = analyse(read_studies(folders))
    findings = find(analysis)
    data = out.with_suffix(".json")
    findings.save(data)
    write_text_atomically(out, render(analysis, findings))
    return {"report": str(out), "data": str(data), "verdicts": counts(findings.verdicts)}


def render(analysis: Analysis, findings: StudyFindings) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=format_number, short=short_number, parameter=format_parameter)
    environment.filters["seconds"] = format_seconds
    return environment.get_template("report_study.html.jinja").render(
        findings=findings,
        claims=[(claim, [v for v in findings.verdicts if v.claim == claim.id]) for claim in CLAIMS],
        counts=counts(findings.verdicts),
        panels=[(name, title, figure_as_div(figure)) for name, title, figure in panels(analysis) if figure],
        laws=LAWS,
        splits=[split for split in SPLITS if _is_tested(split, findings)],
        plotly_js=get_plotlyjs(),
    )


def _is_tested(split: Split, findings: StudyFindings) -> bool:
    return any(law.error_of(split) is not None for c in findings.comparisons for law in c.laws)


def panels(analysis: Analysis) -> Iterator[tuple[str, str, go.Figure | None]]:
    """Name, title and figure, in the order of the page; None where there is nothing to draw."""
    study = analysis.study
    for name in study.loss_sets:
        yield f"loss-{name}", f"Loss against ratio: {name}", value_figure(analysis, "loss", name)
        yield f"divergence-{name}", f"Divergence against ratio: {name}", divergence_figure(analysis, name)
    if study.tasks:
        figure = value_figure(analysis, "accuracy", MEAN_OF_TASKS)
        yield "accuracy", f"Accuracy against ratio: {MEAN_OF_TASKS}", figure
    for name in study.loss_sets:
        yield f"recovery-{name}", f"What recovery wins back: {name}", recovery_figure(analysis, name)
    yield "critical", "Up to which ratio quality is kept", critical_figure(analysis)
    yield "paper-speed", "Speed against ratio: forward passes", ratio_figure(analysis, "paper")
    yield "serving-speed", "Speed against ratio: serving", ratio_figure(analysis, "serving")
    yield "load", "Speed against load", load_figure(analysis)
    yield "adjusted", "Quality-adjusted throughput", quality_adjusted_figure(analysis)
    for name in study.loss_sets:
        yield f"residuals-{name}", f"What the laws leave over: {name}", residual_figure(analysis, "loss", name)


def counts(verdicts: tuple[Verdict, ...]) -> dict[str, int]:
    """Verdicts by word."""
    words = ("supported", "not supported", "not testable here")
    return {word: sum(verdict.verdict == word for verdict in verdicts) for word in words}


def format_number(number: Number) -> str:
    """`beta 1.99 [1.97, 2.01]`."""
    return f"{number.name} {short_number(number.value)}{number.unit}{_ends(number.low, number.high)}"


def format_parameter(parameter: Parameter) -> str:
    """As a number; without the bootstrap's interval, Student's."""
    low, high = (parameter.t_low, parameter.t_high) if parameter.low is None else (parameter.low, parameter.high)
    held = " (held)" if parameter.fixed else _ends(low, high)
    return f"{parameter.name} {short_number(parameter.value)}{held}"


def short_number(value: float) -> str:
    """Three decimals below ten, three figures or whole numbers above, with a true minus sign."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        digits = f"{value:.1e}"
    else:
        digits = f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"
    return digits.replace("-", _MINUS, 1) if value < 0 else digits


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{short_number(low)}, {short_number(high)}]"
