"""The same cells on a Ray cluster: one task a cell, GPUs as Ray resources.

Nodes need Prunebench installed and the study's paths, or hub ids. A task measures in a process of its own, as on one
machine: memory on a GPU comes back with it, the study's limit of time holds, and a process that dies costs its cell.
Checkpoints stay on the node and go with the cell; its record, its log and its load tests' files travel. Ray is asked
not to repeat tasks by itself: a cell whose node was lost is given to another once; if that is lost too, it has failed.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artifacts.errors import ConfigError
from artifacts.study import CellRecord, StudyFile
from prunebench.study.job import CellJob, lost_record
from prunebench.study.parcel import pack, raw_folder, unpack
from prunebench.study.pool import PROGRAM, Rooms, Worker, WorkerLostError

_ATTEMPTS = 2


class Cluster:
    """A Backend over `address`, as in `ray start`'s output, or `auto`; what nodes wrote comes to `out`.

    Raises ConfigError if Ray is not installed.
    """

    on_one_machine = False

    def __init__(self, address: str, study: StudyFile, out: Path) -> None:
        if find_spec("ray") is None:
            raise ConfigError("A cluster needs Ray, which is not installed. Install prunebench[cluster].")
        self._address = address
        self._study = study
        self._out = out
        self._running: dict[Any, tuple[CellJob, int]] = {}  # by Ray's reference: the job, and on how many nodes it was

    def __enter__(self) -> Self:
        import ray

        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"No Ray cluster answers at {self._address} ({reason}). Start one: ray start.") from error
        self._task = ray.remote(num_cpus=1, num_gpus=self._study.gpus_per_cell, max_retries=0)(measure_remotely)
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

        there, gpus = ray.cluster_resources(), self._study.gpus_per_cell
        by_gpu = there.get("GPU", 0) / gpus if gpus else float("inf")
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
            record, parcel = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            return lost_record(job, " ".join(str(error.cause).split())[:300] or type(error.cause).__name__)
        except ray.exceptions.RayError as error:
            if attempt < _ATTEMPTS:
                self._begin(job.model_copy(update={"attempt": job.attempt + 1}), attempt + 1)
                return None
            return lost_record(job, f"Its process was lost on {attempt} nodes ({type(error).__name__}).")
        unpack(parcel, self._out, job.plan.cell)
        return CellRecord.model_validate_json(record)

    def _begin(self, job: CellJob, attempt: int) -> None:
        self._running[self._task.remote(job.model_dump_json(), self._study.cell_timeout_s)] = (job, attempt)


def measure_remotely(job_text: str, timeout_s: float | None, program: tuple[str, ...] = PROGRAM) -> tuple[str, bytes]:
    """Runs on a node, in a folder that goes with the cell. Returns the record and a parcel of what was written."""
    job = CellJob.model_validate_json(job_text)
    with tempfile.TemporaryDirectory(prefix="prunebench-cell-") as place:
        out, scratch = Path(place) / "out", Path(place) / "scratch"
        rooms = Rooms(logs=out / "logs", lock=Path(place) / "lock", program=program, timeout_s=timeout_s)
        here = {"scratch": str(scratch), "raw": str(raw_folder(out, job.plan.cell))}
        worker = Worker(rooms)
        try:
            record = worker.measure(job.model_copy(update=here))
        except WorkerLostError as lost:
            record = lost_record(job, str(lost))
        finally:
            worker.close()
        return record.model_dump_json(), pack(out)
