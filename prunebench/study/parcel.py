"""How do a cell's log and its load tests' own files get from a node to the study? As one archive, with the record.

A node's folder is laid out like the study's (`logs/`, `raw/CELL/`), so unpacking puts every file in its place.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from artifacts.files import disk_error


def pack(folder: Path) -> bytes:
    """All of the folder, compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return packed.getvalue()


def unpack(parcel: bytes, out: Path, cell: str) -> None:
    """In place of what an earlier attempt at the cell left. Raises ConfigError if the disk is full."""
    shutil.rmtree(raw_folder(out, cell), ignore_errors=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(parcel), mode="r:gz") as archive:
            archive.extractall(out, filter="data")
    except OSError as error:
        raise disk_error(out, error) from error


def raw_folder(out: Path, cell: str) -> Path:
    """Where a cell's load tests leave their files, in a study's folder as on a node."""
    return out / "raw" / cell
