"""How do many workers' metrics become one well-formed page?

Each worker's text gets a `variant` label on every sample, and families of the same name are brought together under one
HELP and one TYPE line, as the text format demands. Lines are edited, not parsed into numbers: a full parse of a
worker's thousand samples takes long enough to be seen as a pause in other clients' streams.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum", "_info")


@dataclass(slots=True)
class _Family:
    comments: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def merged_exposition(own: str, workers: Iterable[tuple[str, str]]) -> str:
    """`own` unchanged, then each worker's `(variant, text)` labelled; every family stands once."""
    families: dict[str, _Family] = {}
    _collect(families, own, None)
    for variant, text in workers:
        _collect(families, text, f'variant="{variant}"')
    lines: list[str] = []
    for family in families.values():
        lines += (*family.comments.values(), *family.samples)
    return "\n".join(lines) + "\n"


def _collect(families: dict[str, _Family], text: str, label: str | None) -> None:
    current = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, kind, current, *_ = line.split(" ", 3)
            families.setdefault(current, _Family()).comments.setdefault(kind, line)
        elif line and not line.startswith("#"):
            name = _family_of(line, current)
            sample = line if label is None else _labelled(line, label)
            families.setdefault(name, _Family()).samples.append(sample)


def _family_of(sample: str, current: str) -> str:
    """The family whose header came last, unless the sample is not one of its own."""
    name = sample.split("{", 1)[0].split(" ", 1)[0]
    if current and (name == current or name.removeprefix(current) in _SUFFIXES):
        return current
    return name


def _labelled(sample: str, label: str) -> str:
    brace = sample.find("{")
    space = sample.find(" ")
    if brace == -1 or (space != -1 and space < brace):
        return f"{sample[:space]}{{{label}}}{sample[space:]}"
    separator = "" if sample[brace + 1] == "}" else ","
    return f"{sample[: brace + 1]}{label}{separator}{sample[brace + 1 :]}"
