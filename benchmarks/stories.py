"""How a text is dealt out, by position, so that no document that calibrates or trains a model judges it as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SEPARATOR = "\n<|endoftext|>\n"


def deal_out(text: Path) -> tuple[list[str], list[str]]:
    """The even stories, and every fourth from the fourth on; on the rest constants are chosen."""
    documents = text.read_text(encoding="utf-8").split(SEPARATOR)
    return documents[0::2], documents[3::4]


def write_parts(folder: Path, parts: dict[str, Sequence[str]]) -> list[Path]:
    """A text file for each part, under its name."""
    paths = [folder / f"{name}.txt" for name in parts]
    for path, documents in zip(paths, parts.values(), strict=True):
        path.write_text(SEPARATOR.join(documents), encoding="utf-8")
    return paths
