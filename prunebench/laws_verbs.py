"""The verbs that fit the papers' laws to a study. Heavy packages are imported when a verb runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunebench.advise_verb import StudyFolder

if TYPE_CHECKING:
    from laws.studies.comparison import Comparison

app = typer.Typer(name="laws", help="Fit what the papers say about loss and ratio.", no_args_is_help=True)


class RatioName(StrEnum):
    """Which of a variant's ratios stands for r; a test compares these with what records hold."""

    nominal = "nominal"
    params_total = "params_total"
    params_blocks = "params_blocks"
    kv_bytes_per_token = "kv_bytes_per_token"
    flops_per_token = "flops_per_token"


class ScaleName(StrEnum):
    log = "log"
    natural = "natural"


@app.command()
def fit(
    study: StudyFolder,
    out: Annotated[Path | None, typer.Option(help="JSON file for all fits.")] = None,
    ratio: Annotated[RatioName, typer.Option(help="The ratio that stands for r.")] = RatioName.nominal,
    scale: Annotated[ScaleName, typer.Option(help="log: errors are shares of the value; natural: nats.")] = (
        ScaleName.log
    ),
    d_unit: Annotated[float, typer.Option(min=1, help="Recovery tokens in one D of the first law.")] = 1e6,
) -> None:
    """Fit every law to every method of a study: parameters with intervals, R2, F, AIC, and the error held out.

    The laws are v1 (twice: with D as asked for and in raw tokens) and v2 of the seed paper, the P2 law, the sparse
    scaling law, and a line and a parabola in r. What is linear in logarithms is fitted by ordinary least squares there.

    Example: prunebench laws fit demo-laws.study --ratio params_total --out fits.json
    """
    from laws.studies.comparison import analyse
    from laws.studies.findings import Fits
    from laws.studies.records import read_study
    from prunebench.console import print_result, show_table

    found = analyse(read_study(study), scale=scale.value, ratio=ratio.value, d_unit=d_unit)
    show_table(rows_of(found.comparisons))
    fits = Fits(study=found.study.title, comparisons=found.comparisons)
    if out is not None:
        fits.save(out)
    best = {c.scope.label: c.best.name for c in found.comparisons if c.best is not None}
    print_result({"out": str(out) if out else None, "best_held_out": best})


def rows_of(comparisons: tuple[Comparison, ...]) -> list[list[str]]:
    """A heading for each sample, then a row per law; the least wrong at higher ratios is marked."""
    rows = [["law", "parameters", "adjusted R2", "error, r > 0.6", "rolling", "another model"]]
    for comparison in comparisons:
        rows.append([comparison.scope.label, *[""] * 5])
        for law in comparison.laws:
            parameters = ", ".join(f"{p.name} {p.value:.3g}" for p in law.fit.parameters if not p.fixed)
            errors = [law.error_of(split) for split in ("higher ratios", "rolling", "another model")]
            told = ["–" if error is None else f"{error.rmse_of_base:.3f}" for error in errors]
            r2 = "–" if law.fit.r2_adjusted is None else f"{law.fit.r2_adjusted:.3f}"
            rows.append([f"{'→' if law is comparison.best else ' '} {law.name}", parameters, r2, *told])
    return rows
