"""The process in which engines are timed, and who ends it. Imports next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from server.warden import under_warden

_GRACE_S = 5.0


@contextmanager
def running(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`modeling.decode_timing`, under a warden that ends its process group with the block or with this process."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    log.write_bytes(b"")
    process = subprocess.Popen(
        under_warden(_GRACE_S, log.resolve(), [sys.executable, "-m", "modeling.decode_timing", *arguments]),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment, "PYTHONPATH": paths},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
