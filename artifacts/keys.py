"""The key file: who may ask, and who may steer. It holds hashes; a key itself is seen once, when it is made."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.files import disk_error, write_text_atomically
from artifacts.fleet import Name

Role = Literal["ask", "control"]

KEY_PREFIX = "sk-"
_KEY_BYTES = 32
_PRIVATE_MODE = 0o600


class KeyEntry(Document):
    """One key: whose it is and what it may do."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the key's UTF-8 bytes")]
    role: Role = Field(default="ask", description="`control` may ask as well")
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="default: no limit")
    burst: int | None = Field(default=None, gt=0, description="requests at once; default: those of a minute")

    @model_validator(mode="after")
    def _burst_of_something(self) -> Self:
        if self.burst is not None and self.requests_per_minute is None:
            raise ValueError("`burst` belongs to `requests_per_minute`; give both or leave it out")
        return self


class KeyFile(Document):
    """All keys of an endpoint."""

    schema_version: Literal[1] = 1
    keys: tuple[KeyEntry, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for field in ("name", "sha256"):
            values = [getattr(entry, field) for entry in self.keys]
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"every `{field}` must be there once; repeated: {', '.join(repeated)}")
        return self


def key_sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def add_key(
    path: Path, name: str, role: Role = "ask", requests_per_minute: float | None = None, burst: int | None = None
) -> str:
    """Makes a key, adds its hash to the file (made if missing, mode 0600) and returns the key.

    Raises ConfigError for a name that is taken or a value that is none, and if the file cannot be read or written; the
    file is then as it was.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    entry = {"name": name, "sha256": key_sha256(key), "role": role}
    limits = {"requests_per_minute": requests_per_minute, "burst": burst}
    with _alone_in(path.parent):
        known = KeyFile.load(path) if path.exists() else KeyFile()
        if any(other.name == name for other in known.keys):
            raise ConfigError(f"{path} has a key named {name!r} already. Choose another name or remove that entry.")
        added = KeyEntry.parse({**entry, **limits}, "the new key")
        grown = known.model_copy(update={"keys": (*known.keys, added)})
        write_text_atomically(path, grown.model_dump_json(indent=1) + "\n", _PRIVATE_MODE)
    return key


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two that add a key at the same time would lose one: the folder itself is the lock, so that no file is left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
