"""The verbs `prunebench study plan|run|status`. Heavy packages are imported when a verb runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunebench.advise_verb import StudyFolder
from prunebench.study_report_verb import study_report

if TYPE_CHECKING:
    from prunebench.study.run import Backend, OpenStudy

app = typer.Typer(
    name="study",
    help="Measure models x methods x ratios x recovery budgets x seeds, in a way that can be stopped and resumed.",
    no_args_is_help=True,
)
app.command("report")(study_report)

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file; see studies/.")]
OutFolder = Annotated[Path | None, typer.Option(help="Working folder. Default: STUDY.study beside the file.")]


@app.command()
def plan(
    study: StudyPath,
    out: OutFolder = None,
    each: Annotated[bool, typer.Option("--each", help="List every cell instead of sums by method.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="How many cells at once the total is for.")] = 1,
) -> None:
    """Say which cells a study has and how long they take; measured cells correct the estimate. Measures nothing."""
    from prunebench.console import print_result, show_table
    from prunebench.study.cost import known_params, learn
    from prunebench.study.display import cell_rows, plan_rows
    from prunebench.study.run import open_study

    opened = open_study(study, out, needs_texts=False)
    records = opened.records()
    prices = learn(known_params(opened.file.models, opened.folder, records), opened.plans, records)
    done = {record.cell for record in records}
    show_table((cell_rows if each else plan_rows)(opened.plans, prices, done))
    costs = [prices.of(cell) for cell in opened.plans]
    left_s = sum(cost.total_s for cost in costs if cost.cell not in done)
    print_result(
        {
            "cells": len(costs),
            "left": len(opened.plans) - len(done),
            "left_s": round(left_s / workers, 1),
            "each_s": {cost.cell: round(cost.total_s, 1) for cost in costs} if each else {},
        }
    )


@app.command()
def run(
    study: StudyPath,
    out: OutFolder = None,
    workers: Annotated[int, typer.Option(min=1, help="Cells at once on this machine.")] = 1,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure cells again that had failed.")] = False,
    cells: Annotated[int | None, typer.Option(min=1, help="Stop after so many. Default: all.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Measure on this Ray cluster, one task a cell: host:port, or `auto`.")
    ] = None,
) -> None:
    """Measure a study's missing cells and write results.parquet and results.sqlite.

    An interrupted study goes on where it was when the same command is given again, on this machine or on a cluster.

    Example: prunebench study run studies/demo-laws.toml --workers 2
    """
    from loadtest.player import terminate_like_interrupt
    from prunebench.study.cost import known_params
    from prunebench.study.display import standing
    from prunebench.study.run import open_study, run_study

    opened = open_study(study, out)
    params = known_params(opened.file.models, opened.folder, opened.records())
    backend = _backend(opened, workers, ray_address)
    with terminate_like_interrupt(), standing(params, workers) as watch:
        run_study(opened, backend, watch, retries_failed=retry_failed, most_cells=cells)
    _print_standing(opened)


@app.command()
def status(study: StudyPath, out: OutFolder = None) -> None:
    """Say how far a study is and what failed, while it runs or afterwards."""
    from prunebench.console import show_table
    from prunebench.study.display import status_rows
    from prunebench.study.run import open_study

    opened = open_study(study, out)
    show_table(status_rows(opened.plans, opened.records()))
    _print_standing(opened)


@app.command()
def results(
    study: StudyFolder,
    out: Annotated[Path | None, typer.Option(help="Folder for both files. Default: the study's.")] = None,
) -> None:
    """Write a study's cells as one long table, results.parquet and results.sqlite, for pandas, DuckDB or SQL.

    `study run` does so by itself; this is for a study that came without them.

    Example: prunebench study results benchmarks/demo_laws_cpu_202611 --out tables
    """
    from laws.studies.records import read_study
    from prunebench.console import print_result
    from prunebench.study.results import write_results

    found = read_study(study)
    records = sorted((*found.cells, *found.failed), key=lambda record: record.cell)
    print_result({path.name: str(path) for path in write_results(records, out or found.folder)})


def _backend(opened: OpenStudy, workers: int, ray_address: str | None) -> Backend:
    """Raises ConfigError for an address without Ray."""
    if ray_address is not None:
        from prunebench.study.cluster import Cluster

        return Cluster(ray_address, opened.file, opened.out)
    from prunebench.study.pool import Pool, Rooms

    # Memory on a GPU comes back with the process that held it, and the next cell may need all of it.
    each_anew = opened.file.device == "cuda"
    rooms = Rooms(
        logs=opened.logs,
        lock=opened.workers_lock,
        timeout_s=opened.file.cell_timeout_s,
        cells_per_worker=1 if each_anew else None,
    )
    return Pool(workers, rooms)


def _print_standing(opened: OpenStudy) -> None:
    from prunebench.console import print_result
    from prunebench.study.results import PARQUET_NAME, SQLITE_NAME

    records = opened.records()
    counts = Counter(record.status for record in records)
    files = {name: str(opened.out / name) for name in (PARQUET_NAME, SQLITE_NAME) if (opened.out / name).is_file()}
    print_result(
        {
            "out": str(opened.out),
            "cells": len(opened.plans),
            "done": counts["done"],
            "failed": {record.cell: record.error for record in records if record.status == "failed"},
            "left": len(opened.plans) - len(records),
            "results": files,
        }
    )
