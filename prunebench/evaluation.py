"""One `evaluate` call: a text, tasks or both, as one result to print and one list of records to keep."""

from __future__ import annotations

from typing import Any

from artifacts.progress import Progress
from artifacts.variant import QualityRecord
from compressors.quality import EvaluationRequest, evaluate
from compressors.tasks import TaskRequest, evaluate_tasks
from compressors.text import read_corpus


def measure(
    text: EvaluationRequest | None, tasks: TaskRequest | None, progress: Progress
) -> tuple[dict[str, Any], tuple[QualityRecord, ...]]:
    """The text's values at the top level and the tasks' under `tasks`. Raises what the two evaluations raise."""
    result: dict[str, Any] = {}
    records: tuple[QualityRecord, ...] = ()
    if text is not None:
        # A text that cannot be read must not be found out after an hour of tasks.
        read_corpus(text.text)
    if tasks is not None:
        scored = evaluate_tasks(tasks, progress)
        result["tasks"] = [task.model_dump() for task in scored]
        records += tuple(record for task in scored for record in task.records())
    if text is not None:
        evaluation = evaluate(text, progress)
        result |= evaluation.model_dump()
        records += evaluation.records(text.reference.name if text.reference else None)
    return result, records
