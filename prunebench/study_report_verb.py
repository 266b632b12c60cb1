"""The verb `prunebench study report`. Heavy packages are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunebench.advise_verb import StudyFolders


def study_report(
    studies: StudyFolders,
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML page; a .json goes beside it. Default: report.html in the first folder. "
            "A .md has the speeds alone."
        ),
    ] = None,
) -> None:
    """Turn studies into one page: verdicts on the papers' claims, losses and speeds against the ratio, fitted laws.

    Example: prunebench study report demo-laws.study --out demo-laws.html
    """
    from laws.studies.records import study_folder
    from laws.studies.report import write_study_report
    from laws.studies.speed_page import write_speed_page
    from prunebench.console import print_result

    if out is not None and out.suffix == ".md":
        print_result(write_speed_page(studies, out))
        return
    print_result(write_study_report(studies, out or study_folder(studies[0]) / "report.html"))
