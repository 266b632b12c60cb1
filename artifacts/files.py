"""Writing so that a final name always means a complete result, and hashing what was written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts.errors import ConfigError

PARTIAL_SUFFIX = ".partial"


@contextmanager
def complete_directory(final: Path) -> Iterator[Path]:
    """Yields a temporary sibling that becomes `final` when the block ends well, and is removed otherwise.

    Raises ConfigError if `final` exists and is not an empty folder, or if the disk is full or not writable.
    """
    require_free_name(final)
    partial = final.with_name(f"{final.name}{PARTIAL_SUFFIX}-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if final.exists():
            final.rmdir()
        partial.rename(final)
    except OSError as error:
        raise disk_error(final, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_free_name(final: Path) -> None:
    """Raises ConfigError if something with content is already at `final`."""
    if final.is_file() or (final.is_dir() and any(final.iterdir())):
        raise ConfigError(f"{final} already exists. Choose another --out or remove it first.")


def disk_error(path: Path, error: OSError) -> ConfigError:
    """The one wording for a full or unwritable disk."""
    reason = error.strerror or str(error)
    return ConfigError(
        f"{path} could not be written ({reason}). Nothing was kept; free space or choose another folder."
    )


def write_text_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """`mode` holds from before the first byte; without it the file gets the process's usual one."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode is not None:
            partial.touch()
            partial.chmod(mode)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        if partial.exists():
            partial.unlink()
        raise disk_error(path, error) from error


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_folder(folder: Path, pattern: str = "*") -> str:
    """Hash over the names and contents of the matching files directly in `folder`, in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()
