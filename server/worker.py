"""How is one engine process started, recognised as ready, and ended with all its children?"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import IO

from artifacts.errors import ServingError
from server.connection import UpstreamLost
from server.diagnosis import reason_of
from server.engines import EngineCommand
from server.pool import UpstreamPool, fetch
from server.warden import under_warden

GRACE_S = 10.0
PROBE_EVERY_S = 0.1


class WorkerProcess:
    """An engine under its warden. The engine ends when this object's process ends, whatever the reason."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._end = asyncio.create_task(self._last_words())

    @classmethod
    async def start(cls, command: EngineCommand, log_path: Path) -> WorkerProcess:
        """Appends the engine's output to `log_path`. Raises ServingError if no process can be made."""
        try:
            with log_path.open("ab") as log:
                process = await _spawn(command, log_path, log)
        except OSError as error:
            raise ServingError(f"No worker can be started ({error}). Free memory, processes or disk space.") from error
        return cls(process)

    async def exited(self) -> str:
        """Waits until the engine's first process has ended; returns why, in one sentence.

        Its children may be there for a moment yet, and its memory taken: `stop` waits for them.
        """
        return await asyncio.shield(self._end)

    async def stop(self) -> None:
        """Lets the engine finish within `GRACE_S`; when this returns, neither it nor a child of it is left."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        await self.exited()

    def kill(self) -> None:
        """Ends the engine at once; `stop` still waits for it."""
        if self._process.returncode is None:
            self._process.terminate()

    async def _last_words(self) -> str:
        """The warden says the code and the last words; one that was killed says nothing."""
        assert self._process.stdout is not None
        try:
            code, length = map(int, (await self._process.stdout.readuntil()).split())
            words = await self._process.stdout.readexactly(length)
        except asyncio.IncompleteReadError:
            code, words = await self._process.wait(), b""
        return reason_of(words.decode("utf-8", "replace"), code)


async def _spawn(command: EngineCommand, log_path: Path, log: IO[bytes]) -> asyncio.subprocess.Process:
    """What the warden itself complains of is in the log too: it must not keep open what the server writes to."""
    return await asyncio.create_subprocess_exec(
        *under_warden(GRACE_S, log_path, command.argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
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
