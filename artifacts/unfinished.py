"""Where work in progress stands beside its result: in a folder named by all that decides the result, for one process.

The same command finds what an earlier attempt left, another command does not. Two equal commands at the same time would
write over each other's files, so the second is refused; the kernel frees the lock with its process, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from artifacts.errors import ConfigError
from artifacts.files import PARTIAL_SUFFIX, disk_error, require_free_name

_LOCK_NAME = "lock"


def key_of(decisive: Any) -> str:
    """12 hexadecimal digits over the content; values that JSON does not know count by their text."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextmanager
def working_folder(final: Path, key: str) -> Iterator[Path]:
    """Yields the folder for the work on `final`, as an earlier attempt left it or new, held for this process.

    Raises ConfigError if another process holds it, if `final` exists and is not an empty folder, or if the disk is full
    or not writable; then nothing has changed.
    """
    require_free_name(final)
    folder = final.with_name(f"{final.name}{PARTIAL_SUFFIX}-{key}")
    try:
        lock = _locked_file(folder)
    except BlockingIOError as error:
        raise ConfigError(f"{final} is being made by another process. Wait for it or choose another --out.") from error
    except OSError as error:
        raise disk_error(final, error) from error
    with lock:
        try:
            require_free_name(final)  # an equal process may have ended since the check above
        except ConfigError:
            _leave(folder)
            raise
        yield folder


def remove_working_folder(folder: Path) -> None:
    """Removes it and all that is in it; for the process that holds it."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK_NAME:
            with suppress(OSError):
                path.unlink()
    _leave(folder)


def _leave(folder: Path) -> None:
    """The lock goes last: who comes in behind it finds nothing that is still being removed."""
    with suppress(OSError):
        (folder / _LOCK_NAME).unlink(missing_ok=True)
        folder.rmdir()


def _locked_file(folder: Path) -> TextIO:
    """Raises BlockingIOError if another process has locked it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # A process that ends may remove folder and file between any two of these steps; then all is done again.
        with suppress(FileNotFoundError):
            lock = (folder / _LOCK_NAME).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK_NAME).stat()):
                    return lock
            except OSError:
                lock.close()
                raise
            lock.close()
