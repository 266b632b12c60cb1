"""Cells on this machine: worker processes that take one cell after the other and cannot outlive the study.

Each worker runs under a warden, which ends it and all that it started as soon as this process is gone, however it went.
A worker that dies or takes too long costs the cell it was measuring and is replaced.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from artifacts.errors import PrunebenchError
from artifacts.study import CellRecord
from prunebench.study.job import CellJob, lost_record
from server.warden import under_warden

_GRACE_S = 5.0
_LOOKS_EVERY_S = 0.5


PROGRAM = (sys.executable, "-m", "prunebench.study.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Where the workers of a study write, and what they are: a program that takes a socket's path and the lock's."""

    logs: Path
    lock: Path
    program: tuple[str, ...] = PROGRAM
    timeout_s: float | None = None
    cells_per_worker: int | None = None


class Pool:
    """`submit` as many jobs as there are `slots`; `next_record` gives what came of them, in the order of their end."""

    on_one_machine = True

    def __init__(self, workers: int, rooms: Rooms) -> None:
        self.slots = workers
        self._rooms = rooms
        self._jobs: queue.Queue[CellJob | None] = queue.Queue()
        self._records: queue.Queue[CellRecord] = queue.Queue()
        self._workers = [_Hand(rooms, self._jobs, self._records) for _ in range(workers)]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.end()

    def submit(self, job: CellJob) -> None:
        self._jobs.put(job)

    def next_record(self, timeout_s: float) -> CellRecord | None:
        """None if nothing ended in time."""
        try:
            return self._records.get(timeout=timeout_s)
        except queue.Empty:
            return None


class _Hand(threading.Thread):
    """Feeds one worker process at a time."""

    def __init__(self, rooms: Rooms, jobs: queue.Queue[CellJob | None], records: queue.Queue[CellRecord]) -> None:
        super().__init__(daemon=True)
        self._rooms = rooms
        self._jobs = jobs
        self._records = records
        self._worker: Worker | None = None
        self._measured = 0
        self._over = False

    def run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._over:
            record = self._measure(job)
            if not self._over:
                self._records.put(record)
            self._measured += 1
            if self._rooms.cells_per_worker is not None and self._measured >= self._rooms.cells_per_worker:
                self._replace()

    def end(self) -> None:
        """A cell under way is given up: its worker's end is what the thread then reads."""
        self._over = True
        if self._worker is not None:
            self._worker.close()
        self.join()

    def _measure(self, job: CellJob) -> CellRecord:
        if self._worker is None:
            self._worker = Worker(self._rooms)
        try:
            return self._worker.measure(job)
        except WorkerLostError as lost:
            self._replace()
            return lost_record(job, str(lost))

    def _replace(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker, self._measured = None, 0


class WorkerLostError(PrunebenchError):
    """A worker is gone or silent for too long; its message is the cell's error. It can only be closed."""


class Worker:
    """One process."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._folder = tempfile.TemporaryDirectory(prefix="study-")
        rooms.logs.mkdir(parents=True, exist_ok=True)
        address = str(Path(self._folder.name) / "worker")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        listener.settimeout(_LOOKS_EVERY_S)
        self._listener = listener
        self._connection: socket.socket | None = None
        self._process = _start(address, rooms)

    def measure(self, job: CellJob) -> CellRecord:
        """Raises WorkerLostError if the process ends, or takes longer than the study allows."""
        try:
            return CellRecord.model_validate_json(self._ask(job))
        except TimeoutError as error:
            limit = f"the study's cell_timeout_s of {self._rooms.timeout_s:g} s"
            raise WorkerLostError(f"It took longer than {limit}.") from error
        except OSError as error:
            ended = f"Its process ended with code {self._process.wait()}"
            raise WorkerLostError(f"{ended}: {last_line(self._rooms, job)}") from error

    def _ask(self, job: CellJob) -> bytes:
        connection = self._connection = self._connection or self._accept()
        connection.settimeout(self._rooms.timeout_s)
        log = self._rooms.logs / log_name(job)
        connection.sendall(f"{log.resolve()}\t{job.model_dump_json()}\n".encode())
        answer = bytearray()
        while not answer.endswith(b"\n"):
            piece = connection.recv(1 << 16)
            if not piece:
                raise ConnectionResetError("the worker is gone")
            answer += piece
        return bytes(answer)

    def close(self) -> None:
        """The warden ends the process and all that it started; then the socket goes."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._listener.close()
        self._folder.cleanup()

    def _accept(self) -> socket.socket:
        while self._process.poll() is None:
            with contextlib.suppress(TimeoutError):
                return self._listener.accept()[0]
        raise ConnectionResetError("the worker ended before it came up")


def last_line(rooms: Rooms, job: CellJob) -> str:
    """What the cell's log ends with, where the process gives no other reason. Paths are below the study's folder."""
    log = rooms.logs / log_name(job)
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = f"{lines[-1][:300]} The whole log is " if lines else "see "
    return f"{found}{rooms.logs.name}/{log.name if lines else WORKER_LOG}."


def log_name(job: CellJob) -> str:
    return f"{job.plan.cell}.log"


WORKER_LOG = "workers.log"


def _start(address: str, rooms: Rooms) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    command = [*rooms.program, address, str(rooms.lock.resolve())]
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        under_warden(_GRACE_S, (rooms.logs / WORKER_LOG).resolve(), command),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
