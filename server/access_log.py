"""How does every request get its line on disk without any request waiting for the disk?

The event loop puts lines into a bounded queue; a thread writes what has come together, at most ten times a second. A
disk that is slow or full costs lines, which are counted, never requests. A file that was moved away is opened anew,
which is all that log rotation needs.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts.files import disk_error
from server.access_line import access_line
from server.metrics import ObservedRequest

MAX_WAITING_LINES = 20_000
GATHER_S = 0.1
LAST_WRITE_S = 2.0
_NEWLINE = 10


class AccessLog:
    """One file, appended to. Raises ConfigError if it cannot be opened at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._something = threading.Event()
        self._ended = threading.Event()
        self._not_taken = 0
        self._not_written = 0
        self._torn = False
        try:
            self._file = _opened(path)
        except OSError as error:
            raise disk_error(path, error) from error
        self._writer = threading.Thread(target=self._write_on, name="access-log", daemon=True)
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines that are in no file: too many waited, or the disk took them not."""
        return self._not_taken + self._not_written

    def note(self, request: ObservedRequest, ended_s: float) -> None:
        """Returns at once, whatever the disk does."""
        if len(self._waiting) >= MAX_WAITING_LINES:
            self._not_taken += 1
            return
        self._waiting.append(access_line(request, ended_s))
        if not self._something.is_set():
            self._something.set()

    def close(self) -> None:
        """Writes what waits, if the disk takes it within `LAST_WRITE_S`."""
        self._ended.set()
        self._something.set()
        self._writer.join(LAST_WRITE_S)

    def _write_on(self) -> None:
        ended = False
        while not ended:
            self._something.wait()
            self._something.clear()
            ended = self._ended.wait(GATHER_S)
            self._write([self._waiting.popleft() for _ in range(len(self._waiting))])
        os.close(self._file)

    def _write(self, lines: list[bytes]) -> None:
        """A line that was torn by a full disk is ended before the next one."""
        done = 0
        data = b"".join(lines)
        try:
            self._follow_path()
            if self._torn:
                os.write(self._file, b"\n")
                self._torn = False
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            self._not_written += len(lines) - data.count(b"\n", 0, done)
            self._torn = self._torn or (done > 0 and data[done - 1] != _NEWLINE)

    def _follow_path(self) -> None:
        """Raises OSError."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        own = os.fstat(self._file)
        if found is None or (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            fresh = _opened(self._path)
            os.close(self._file)
            self._file = fresh
            self._torn = False


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def access_log(path: str | None) -> Iterator[AccessLog | None]:
    """The log of a server that keeps one; None for one that does not. Raises ConfigError."""
    if path is None:
        yield None
        return
    log = AccessLog(Path(path))
    try:
        yield log
    finally:
        log.close()
