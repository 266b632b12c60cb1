"""The process that measures cells: `python -m prunebench.study.worker SOCKET LOCK`.

Starting it takes seconds, most of them for importing PyTorch and Transformers, so it measures many cells: one JSON line
in is a job, one JSON line out is the record. Each cell's output goes to a log of its own. While it lives it holds LOCK
together with the study's other workers, so that a study which is started again right after it was killed waits until
nobody of before touches its checkpoints any more.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from prunebench.console import StageLines


def main(address: str, lock: str) -> None:
    """Ends when the other side closes the connection."""
    with Path(lock).open("w") as held, socket.socket(socket.AF_UNIX) as connection:
        fcntl.flock(held, fcntl.LOCK_SH)
        connection.connect(address)
        _serve(connection)


def _serve(connection: socket.socket) -> None:
    from prunebench.study.cell import measure_cell
    from prunebench.study.job import CellJob

    with connection.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            log, _, job_text = line.partition("\t")
            job = CellJob.model_validate_json(job_text)
            _write_to(Path(log), job.plan.cell)
            record = measure_cell(job, StageLines())
            lines.write(record.model_dump_json() + "\n")
            lines.flush()


def _write_to(log: Path, cell: str) -> None:
    """All output of this process, that of libraries in C included, goes there from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, f"{datetime.now(UTC).isoformat(timespec='seconds')} {cell}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
