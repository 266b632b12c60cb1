"""Text that every CPython carries: the standard library's sources and its documentation topics.

The demo must not need a download, so its model is trained, calibrated and evaluated on this text. Files are
split by a hash of their path, not of their content: the held-out files are the same on every CPython version,
and none of them was ever trained or calibrated on.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "calibration", "held_out"]

# Debian and others ship the tests and the IDE apart; generated tables teach a model nothing but numbers.
_EXCLUDED_DIRS = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages"}
    | {"dist-packages", "encodings", "distutils", "__pycache__"}
)
_EXCLUDED_PREFIXES = ("config-", "_sysconfigdata")
_BUCKETS = 40


@dataclass(frozen=True, slots=True)
class Corpus:
    """One split: texts in path order and the SHA-256 over paths and contents."""

    split: Split
    texts: tuple[str, ...]
    sha256: str

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))


def load_corpus(split: Split, stdlib: Path | None = None) -> Corpus:
    """The split's files of the running interpreter (or of `stdlib`), sorted by path."""
    root = stdlib or Path(sysconfig.get_paths()["stdlib"])
    texts: list[str] = []
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if _is_excluded(name) or split_of(name) != split:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) < 200:
            continue
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
        texts.append(text)
    return Corpus(split, tuple(texts), digest.hexdigest())


def split_of(name: str) -> Split:
    """2 of 40 buckets are held out, 2 are for calibration, the rest is for training."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _BUCKETS
    if bucket < 2:
        return "held_out"
    return "calibration" if bucket < 4 else "train"


def _is_excluded(name: str) -> bool:
    parts = name.split("/")
    return bool(_EXCLUDED_DIRS.intersection(parts)) or parts[0].startswith(_EXCLUDED_PREFIXES)
