"""Whose request is this? The ring of known keys, kept as the key file has it at the moment.

A key is looked for by the first bytes of its hash, and the whole hash is compared in constant time: a lookup costs the
same for three keys and for thousands, and its duration tells nothing about a key, because nobody can choose a hash.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.keys import KeyEntry, KeyFile
from server import faults
from server.rate import TokenBucket

Headers = list[tuple[bytes, bytes]]

# Where the scope holds the name of the key that was presented.
KEY_NAME = "prunebench.key_name"
CREDENTIALS = frozenset((b"authorization", b"x-api-key"))
LOOK_AGAIN_S = 1.0
_PREFIX_BYTES = 8


class Key:
    """One key of the ring, and what it has used of its rate."""

    __slots__ = ("bucket", "digest", "entry")

    def __init__(self, entry: KeyEntry) -> None:
        self.entry = entry
        self.digest = bytes.fromhex(entry.sha256)
        per_minute = entry.requests_per_minute
        self.bucket = None if per_minute is None else TokenBucket(per_minute, entry.burst)


class Keyring:
    """The keys of one file. Raises ConfigError if the file cannot be read at first.

    Later a damaged or missing file leaves the ring as it is, and `announce` is told once per damage.
    """

    def __init__(
        self, path: Path, announce: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._announce = announce
        self._clock = clock
        self._keys: dict[bytes, Key] = {}
        self._seen = _version_of(path)
        self._look_again_s = clock() + LOOK_AGAIN_S
        self._fill(KeyFile.load(path))

    def __len__(self) -> int:
        return len(self._keys)

    def identify(self, headers: Headers) -> Key:
        """The key that the headers present. Raises ServingError (401) for none, an unknown one, or different ones."""
        if self._clock() >= self._look_again_s:
            self._look_again()
        presented = presented_key(headers)
        if presented is None:
            raise faults.missing_key()
        digest = sha256(presented).digest()
        key = self._keys.get(digest[:_PREFIX_BYTES])
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise faults.unknown_key()
        return key

    def _look_again(self) -> None:
        self._look_again_s = self._clock() + LOOK_AGAIN_S
        version = _version_of(self._path)
        if version == self._seen:
            return
        self._seen = version
        try:
            self._fill(KeyFile.load(self._path))
        except ConfigError as error:
            self._announce(f"the API keys stay as they were: {error}")
        else:
            self._announce(f"{len(self._keys)} API keys from {self._path}")

    def _fill(self, file: KeyFile) -> None:
        """A key that has not changed keeps what it has used of its rate."""
        before = {key.entry: key for key in self._keys.values()}
        keys = [before.get(entry) or Key(entry) for entry in file.keys]
        self._keys = {key.digest[:_PREFIX_BYTES]: key for key in keys}


def presented_key(headers: Headers) -> bytes | None:
    """From `Authorization: Bearer` or `x-api-key`; the same key may be there twice.

    Raises ServingError (401) for different keys: which one counts would be a guess.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            key = _bearer(value)
        elif name == b"x-api-key":
            key = value.strip()
        else:
            continue
        if found is not None and key != found:
            raise faults.ambiguous_key()
        found = key
    return found or None


def _bearer(value: bytes) -> bytes:
    """Raises ServingError (401) for another scheme."""
    scheme, _, key = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise faults.missing_key()
    return key.strip()


def _version_of(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content: a new file under its name, its time, its size. None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
