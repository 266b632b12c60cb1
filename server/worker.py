"""How is one engine process started, recognised as ready, and ended with all its children?"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import IO

from artifacts.errors import ServingError
from server import warden
from server.connection import UpstreamLost
from server.diagnosis import reason_of
from server.engines import EngineCommand
from server.pool import UpstreamPool, fetch

GRACE_S = 10.0
PROBE_EVERY_S = 0.1
LOG_TAIL_BYTES = 256 * 1024


class WorkerProcess:
    """An engine under its warden. The engine ends when this object's process ends, whatever the reason."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path, log_offset: int) -> None:
        self._process = process
        self._log_path = log_path
        self._log_offset = log_offset

    @classmethod
    async def start(cls, command: EngineCommand, log_path: Path) -> WorkerProcess:
        """Appends the engine's output to `log_path`. Raises ServingError if no process can be made."""
        try:
            with log_path.open("ab") as log:
                offset = log.tell()
                process = await _spawn(command, log)
        except OSError as error:
            raise ServingError(f"No worker can be started ({error}). Free memory, processes or disk space.") from error
        return cls(process, log_path, offset)

    async def exited(self) -> str:
        """Waits until the engine has ended; returns why, in one sentence."""
        code = await self._process.wait()
        return reason_of(self._log(), code)

    def _log(self) -> str:
        with self._log_path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_offset, end - LOG_TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")

    async def stop(self) -> None:
        """Lets the engine finish within `GRACE_S`; when this returns, neither it nor a child of it is left."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    def kill(self) -> None:
        """Ends the engine at once; `stop` still waits for it."""
        if self._process.returncode is None:
            self._process.terminate()


async def _spawn(command: EngineCommand, log: IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", warden.__file__, str(GRACE_S), *command.argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**os.environ, **command.env},
        start_new_session=True,
    )


async def until_ready(pool: UpstreamPool, name: str) -> None:
    """Returns once one token was generated. Raises ServingError if the engine refuses to."""
    request = json.dumps({"model": name, "prompt": "a", "max_tokens": 1, "temperature": 0}).encode()
    while True:
        try:
            status, answer = await fetch(pool, "POST", "/v1/completions", request)
        except (OSError, UpstreamLost):
            status, answer = 0, b""
        if status == 200:
            return
        if 400 <= status < 500:
            detail = answer.decode("utf-8", "replace")[:200]
            raise ServingError(f"The worker of model {name!r} answers {status} to a first completion: {detail}")
        await asyncio.sleep(PROBE_EVERY_S)
