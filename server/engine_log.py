"""How is an engine's output kept without filling the disk, and without ever making the engine wait?

One thread reads the engine's pipe as fast as it can into bounded memory, another writes to files of bounded size. When
the disk is slower than the engine, or full, the oldest output that was not written is left out; the last part is also
kept in memory, so that the reason of a crash is known even without a disk.

Standard library only, and none that is slow to import: this runs in the warden.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path
from typing import IO

FILE_BYTES = 16 << 20
FILES = 3
PENDING_BYTES = 4 << 20
TAIL_BYTES = 256 << 10
PIECE_BYTES = 256 << 10


class RotatingFile:
    """`path`, and before it `path.1`, `path.2`: at most `files` of them with `file_bytes` each.

    A disk that is full, or a folder that is gone, costs what could not be written. `follower` is a descriptor that is
    made to mean the youngest of the files, because one that is open on an old file keeps it on the disk.
    """

    def __init__(
        self, path: str, file_bytes: int = FILE_BYTES, files: int = FILES, follower: int | None = None
    ) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files = files
        self._follower = follower
        self._descriptor: int | None = None
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), self._file_bytes):
            with contextlib.suppress(OSError):
                self._append(data[start : start + self._file_bytes])

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, piece: bytes) -> None:
        descriptor = self._opened()
        if self._size_bytes and self._size_bytes + len(piece) > self._file_bytes:
            self._rotate()
            descriptor = self._opened()
        self._size_bytes += os.write(descriptor, piece)

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size_bytes = os.fstat(self._descriptor).st_size
            if self._follower is not None:
                os.dup2(self._descriptor, self._follower)
        return self._descriptor

    def _rotate(self) -> None:
        self.close()
        oldest_first = [*(f"{self._path}.{age}" for age in range(self._files - 1, 0, -1)), self._path]
        for older, younger in itertools.pairwise(oldest_first):
            with contextlib.suppress(FileNotFoundError):
                Path(younger).replace(older)


class EngineLog:
    """What comes out of `source`, a pipe, goes to `file`."""

    def __init__(self, source: IO[bytes], file: RotatingFile) -> None:
        self._source = source
        self._file = file
        self._tail = bytearray()
        self._pending = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._reader.start()
        self._writer.start()

    def last_words(self, within_s: float) -> bytes:
        """The last `TAIL_BYTES`, once the pipe has ended or so many seconds have passed."""
        self._reader.join(within_s)
        with self._changed:
            return bytes(self._tail[-TAIL_BYTES:])

    def close(self, within_s: float) -> None:
        """Waits so long at most for the pipe's end, and as long for what has yet to be written."""
        self._reader.join(within_s)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._writer.join(within_s)

    def _read(self) -> None:
        while piece := os.read(self._source.fileno(), PIECE_BYTES):
            with self._changed:
                keep_newest(self._tail, piece, TAIL_BYTES)
                keep_newest(self._pending, piece, PENDING_BYTES)
                self._changed.notify_all()

    def _write(self) -> None:
        while data := self._next():
            self._file.write(data)
        self._file.close()

    def _next(self) -> bytes:
        """Empty when the log has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._ended)
            data = bytes(self._pending)
            self._pending.clear()
            return data


def keep_newest(kept: bytearray, piece: bytes, limit_bytes: int) -> None:
    """Appends; the oldest bytes go once there are twice as many as `limit_bytes`, so that moving them stays rare."""
    kept += piece
    if len(kept) > 2 * limit_bytes:
        del kept[:-limit_bytes]
