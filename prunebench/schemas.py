"""The JSON Schemas of what is written for other programs. `python -m prunebench.schemas docs/schemas` writes them.

They describe what is read: fields with a default may be missing, because documents of earlier versions lack them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from artifacts.campaign import Campaign
from artifacts.capacity import CapacitySearch
from artifacts.document import Document
from artifacts.files import write_text_atomically
from artifacts.run import RunManifest
from artifacts.study import CellRecord, StudyFile
from artifacts.sweep import Sweep
from laws.findings import Findings
from laws.roofline import Hardware
from laws.studies.findings import Fits, StudyFindings

DOCUMENTS: dict[str, type[Document]] = {
    "run": RunManifest,
    "campaign": Campaign,
    "search": CapacitySearch,
    "sweep": Sweep,
    "report": Findings,
    "study": StudyFile,
    "hardware": Hardware,
    "cell": CellRecord,
    "fits": Fits,
    "study_report": StudyFindings,
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_text(name: str) -> str:
    """The schema of one of DOCUMENTS, as its file holds it."""
    return json.dumps({"$schema": _DIALECT} | DOCUMENTS[name].model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    for name in DOCUMENTS:
        write_text_atomically(folder / f"{name}.schema.json", schema_text(name))


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
