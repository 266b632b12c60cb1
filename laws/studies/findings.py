"""What does a study say? Fits and verdicts as documents, the content of the JSON beside its report."""

from __future__ import annotations

from typing import Literal

from artifacts.document import Document
from artifacts.provenance import Provenance
from laws.claims.catalogue import CLAIMS
from laws.claims.claim import Verdict, judge
from laws.studies.comparison import Analysis, Comparison
from laws.studies.records import measured_on


class Fits(Document):
    """What `laws fit` writes."""

    schema_version: Literal[1] = 1
    study: str
    comparisons: tuple[Comparison, ...]


class FailedCell(Document):
    cell: str
    error: str


class StudyFindings(Document):
    """Everything on a study's report but its pictures, which come from the cells."""

    schema_version: Literal[1] = 1
    title: str
    models: tuple[str, ...]
    methods: tuple[str, ...]
    cells: int
    failed: tuple[FailedCell, ...]
    wall_s: float
    measured_on: str
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    provenance: Provenance


def find(analysis: Analysis) -> StudyFindings:
    """Judges every claim. The provenance is that of the first cell; each verdict names its own."""
    study = analysis.study
    return StudyFindings(
        title=study.title,
        models=study.models,
        methods=study.methods,
        cells=len(study.cells),
        failed=tuple(FailedCell(cell=cell.cell, error=cell.error or "") for cell in study.failed),
        wall_s=sum(cell.wall_s for cell in (*study.cells, *study.failed)),
        measured_on=measured_on(study.cells),
        comparisons=analysis.comparisons,
        verdicts=tuple(verdict for claim in CLAIMS for verdict in judge(claim, analysis)),
        provenance=study.cells[0].provenance,
    )
