"""The same cells on a Ray cluster: one task a cell, GPUs as Ray resources.

Nodes need Prunebench installed and the study's paths, or hub ids. A cell's checkpoints stay on its node and go with it,
so nothing but records travels. Ray is asked not to repeat tasks by itself: whose node was lost is given to another node
once, whose process was lost twice has failed, since the second time it is hardly the node's fault.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from artifacts.errors import ConfigError
from artifacts.progress import silent
from artifacts.study import CellRecord, StudyFile
from prunebench.study.job import CellJob, lost_record

_ATTEMPTS = 2


class Cluster:
    """A Backend over `address`, as in `ray start`'s output, or `auto`. Raises ConfigError if Ray is not installed."""

    on_one_machine = False

    def __init__(self, address: str, study: StudyFile) -> None:
        if find_spec("ray") is None:
            raise ConfigError("A cluster needs Ray, which is not installed. Install prunebench[cluster].")
        self._address = address
        self._gpus = study.gpus_per_cell
        self._running: dict[Any, tuple[CellJob, int]] = {}  # by Ray's reference: the job, and on how many nodes it was

    def __enter__(self) -> Self:
        import ray

        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"No Ray cluster answers at {self._address} ({reason}). Start one: ray start.") from error
        self._task = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(measure_remotely)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        ray.shutdown()

    @property
    def slots(self) -> int:
        """As many cells as the nodes that are alive can take."""
        import ray

        there = ray.cluster_resources()
        by_gpu = there.get("GPU", 0) / self._gpus if self._gpus else float("inf")
        return max(1, int(min(there.get("CPU", 1), by_gpu)))

    def submit(self, job: CellJob) -> None:
        self._begin(job, 1)

    def next_record(self, timeout_s: float) -> CellRecord | None:
        import ray

        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if not ready:
            return None
        job, attempt = self._running.pop(ready[0])
        try:
            return CellRecord.model_validate_json(ray.get(ready[0]))
        except ray.exceptions.RayTaskError as error:
            return lost_record(job, " ".join(str(error.cause).split())[:300] or type(error.cause).__name__)
        except ray.exceptions.RayError as error:
            if attempt < _ATTEMPTS:
                self._begin(job.model_copy(update={"attempt": job.attempt + 1}), attempt + 1)
                return None
            return lost_record(job, f"Its process was lost on {attempt} nodes ({type(error).__name__}).")

    def _begin(self, job: CellJob, attempt: int) -> None:
        self._running[self._task.remote(job.model_dump_json())] = (job, attempt)


def measure_remotely(job_text: str) -> str:
    """Runs on a node, in a folder of its own that goes with the cell."""
    job = CellJob.model_validate_json(job_text)
    with tempfile.TemporaryDirectory(prefix="prunebench-cell-") as scratch:
        from prunebench.study.cell import measure_cell

        return measure_cell(job.model_copy(update={"scratch": scratch}), silent).model_dump_json()
