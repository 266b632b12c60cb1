"""Which part of a plan does this process play, and when does it start? All of it at once, or one of several parts.

One schedule is dealt out, not several drawn: process k of n plays the requests whose index leaves k when divided by n,
and the closed loop's streams likewise, so that all processes together send what one would.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns

_SETTLE_NS = 20 * 10**6  # between the last preparation and the first request of a segment


def soon(number: int) -> int:
    """A process that plays alone waits for nobody: when segment `number` starts, on the performance counter."""
    return perf_counter_ns() + _SETTLE_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Part `number` of `parts`. `meet(segment)` says when all start that segment; it may wait for the others."""

    number: int = 0
    parts: int = 1
    meet: Callable[[int], int] = soon

    def indices(self, below: int | None = None) -> Iterator[int]:
        """Of the requests, or streams, of this share; for ever unless `below` is given."""
        if below is None:
            return itertools.count(self.number, self.parts)
        return iter(range(self.number, below, self.parts))
