"""How is every request under way looked at now and then, at no cost for those that are over before?

One timer for all of them: arming one for each request, and cancelling it, would cost more than reading its key. What is
nearly due is looked at with what is due, so that many requests are looked at together; a look is never a verdict.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol

TOGETHER_S = 0.1


class Watched(Protocol):
    """Something under way."""

    def look(self, now_s: float) -> float:
        """When to look again. It may have left the watch on return."""


class Watch:
    """Who is watched until when; times are on `time.monotonic`."""

    def __init__(self) -> None:
        self._due_s: dict[Watched, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def __len__(self) -> int:
        return len(self._due_s)

    def add(self, watched: Watched, due_s: float) -> None:
        self._due_s[watched] = due_s
        if due_s < self._timer_s:
            self._arm(due_s)

    def drop(self, watched: Watched) -> None:
        """It may have left before."""
        self._due_s.pop(watched, None)

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - time.monotonic()), self._look)

    def _look(self) -> None:
        now_s = time.monotonic()
        self._timer, self._timer_s = None, math.inf
        for watched in [watched for watched, due_s in self._due_s.items() if due_s <= now_s + TOGETHER_S]:
            if watched not in self._due_s:
                continue
            again_s = watched.look(now_s)
            if watched in self._due_s:
                self._due_s[watched] = again_s
        soonest_s = min(self._due_s.values(), default=math.inf)
        if soonest_s < self._timer_s:
            self._arm(soonest_s)
