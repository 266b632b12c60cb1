"""How do many workers' metrics become one well-formed page?

Each worker's text gets labels on every sample, `variant` first of all, and families of the same name are brought
together under one HELP and one TYPE line, as the text format demands. Lines are edited, not parsed into numbers, and
the work is done in pieces: a thousand samples at a stretch would be seen as a pause in other clients' streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

PIECE_LINES = 100
_SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum", "_info")


@dataclass(frozen=True, slots=True)
class Page:
    """A text in Prometheus' format, or a part of one, and the labels that its samples get."""

    text: str
    labels: Mapping[str, str] = field(default_factory=dict)


class _Alone(CollectorRegistry):
    """Just this metric, as a registry."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def pieces_of(registry: CollectorRegistry, labels: Mapping[str, str]) -> Iterator[Page]:
    """A registry's page, `PIECE_LINES` samples at a time; each part of a family has the family's head."""
    for metric in registry.collect():
        for begin in range(0, len(metric.samples), PIECE_LINES):
            part = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            part.samples = metric.samples[begin : begin + PIECE_LINES]
            yield Page(generate_latest(_Alone(part)).decode(), labels)


@dataclass(slots=True)
class _Family:
    comments: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def merging(pages: Iterable[Page]) -> Generator[None, None, str]:
    """One page of all, every family once. Pauses after each `PIECE_LINES` lines and each page."""
    families: dict[str, _Family] = {}
    for page in pages:
        yield from _collecting(families, page)
        yield
    lines: list[str] = []
    for family in families.values():
        lines += (*family.comments.values(), *family.samples)
    return "\n".join(lines) + "\n"


async def in_pieces(work: Generator[None, None, str]) -> str:
    """The result of `work`; where it pauses others have their turn."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return str(end.value)
        await asyncio.sleep(0)


def _collecting(families: dict[str, _Family], page: Page) -> Generator[None, None, None]:
    label = ",".join(f'{name}="{_escaped(value)}"' for name, value in page.labels.items())
    current = ""
    for index, line in enumerate(page.text.split("\n")):
        if line.startswith(("# HELP ", "# TYPE ")):
            _, kind, current, *_ = line.split(" ", 3)
            families.setdefault(current, _Family()).comments.setdefault(kind, line)
        elif line and not line.startswith("#"):
            name = _family_of(line, current)
            families.setdefault(name, _Family()).samples.append(_labelled(line, label) if label else line)
        if index % PIECE_LINES == PIECE_LINES - 1:
            yield


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


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
