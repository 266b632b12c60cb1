"""The verb `prunebench study report`. Heavy packages are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunebench.advise_verb import StudyFolder


def study_report(
    study: StudyFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML page; a .json goes beside it. Default: report.html in the study's folder. "
            "A .md has the speeds alone."
        ),
    ] = None,
) -> None:
    """Turn a study into one page: verdicts on the papers' claims, losses and speeds against the ratio, fitted laws.

    Example: prunebench study report demo-laws.study --out demo-laws.html
    """
    from laws.studies.records import study_folder
    from laws.studies.report import write_study_report
    from laws.studies.speed_page import write_speed_page
    from prunebench.console import print_result

    if out is not None and out.suffix == ".md":
        print_result(write_speed_page(study, out))
        return
    print_result(write_study_report(study, out or study_folder(study) / "report.html"))
