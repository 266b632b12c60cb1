"""Which levels are worth running, and whose are better? Fronts of throughput against user speed, and their comparison.

A front is compared as the staircase that was measured: whoever needs users to be served at least x tokens per second
each gets the throughput of the best level that does so. Nothing is interpolated between levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Place = tuple[float, float]
"""(tokens per second of each user, tokens per second in all); more is better in both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """`sign`: +1 where the first front is higher, -1 where the second is, 0 where they are equal.

    `ratio` is first over second; None where one of them has no level as fast.
    """

    start: float
    end: float
    sign: int
    ratio: float | None


def on_front(places: Sequence[Place | None]) -> tuple[bool, ...]:
    """Whether no other place is as good in both and better in one. None is on no front."""
    known = [place for place in places if place is not None]
    return tuple(place is not None and not any(_dominates(other, place) for other in known) for place in places)


def front_areas(first: Sequence[Place], second: Sequence[Place]) -> tuple[Area, ...]:
    """Where which front is higher, over (0, fastest user speed of either], joined where sign and ratio stay."""
    edges = sorted({0.0, *(x for x, _ in (*first, *second))})
    areas: list[Area] = []
    for start, end in itertools.pairwise(edges):
        ours, theirs = _best(first, end), _best(second, end)
        sign = (ours > theirs) - (ours < theirs)
        ratio = ours / theirs if ours and theirs else None
        if areas and (areas[-1].sign, areas[-1].ratio) == (sign, ratio):
            start = areas.pop().start
        areas.append(Area(start=start, end=end, sign=sign, ratio=ratio))
    return tuple(areas)


def _dominates(a: Place, b: Place) -> bool:
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def _best(places: Sequence[Place], at_least: float) -> float:
    return max((y for x, y in places if x >= at_least), default=0.0)
