"""Metric pages as tests read them: made at a stretch, and as numbers by name and labels."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from prometheus_client.parser import text_string_to_metric_families

from server.exposition import Page, merging
from server.metrics import GatewayMetrics

Labels = tuple[tuple[str, str], ...]


def drained(work: Generator[None, None, str]) -> tuple[str, int]:
    """What the work comes to, and how often it paused."""
    pauses = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return str(end.value), pauses
        pauses += 1


def merged(own: str, workers: Iterable[tuple[str, str]]) -> str:
    """`own` and each worker's `(variant, text)` on one page."""
    return drained(merging([Page(own), *(Page(text, {"variant": name}) for name, text in workers)]))[0]


def own_page(metrics: GatewayMetrics) -> str:
    return drained(merging(metrics.pages()))[0]


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """Raises ValueError for a page that Prometheus would refuse."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(text: str, name: str, **labels: str) -> float:
    """The sum over all samples of this name with these labels."""
    return sum(value for (found, has), value in samples(text).items() if found == name and labels.items() <= set(has))
