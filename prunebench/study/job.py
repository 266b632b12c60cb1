"""What a measuring process is told about a cell, and the record of a cell that no process came back from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from artifacts.document import Document
from artifacts.provenance import collect_provenance
from artifacts.study import CellRecord
from prunebench.study.plan import CellPlan


class CellJob(Document):
    """A cell and what the measuring process needs beside it. `base` is the dense cell's record, null for itself.

    `folder` is where the study's paths start, `scratch` holds checkpoints while they are needed, `raw` keeps what load
    tests wrote, and `keeps_checkpoint` says that the next cell begins with the same compressed checkpoint.
    """

    plan: CellPlan
    folder: str
    scratch: str
    raw: str
    base: CellRecord | None = None
    keeps_checkpoint: bool = False
    attempt: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of a record that say which cell it is."""
        return {"cell": self.plan.cell, "attempts": self.attempt, **self.plan.at.model_dump()}


def lost_record(job: CellJob, error: str) -> CellRecord:
    """Of a cell whose process could not say itself what went wrong."""
    return CellRecord(
        **job.identity,
        status="failed",
        error=error,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=0.0,
        provenance=collect_provenance(),
    )
