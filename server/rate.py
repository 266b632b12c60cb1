"""How many requests may one key send now, and how long until the next?

A token bucket described by one number: the moment at which it is full again. Every request moves that moment away by
the time that one token takes; nothing is added up, so nothing drifts. The clock is the caller's.
"""

from __future__ import annotations

import math

# Differences of clock readings are rounded; a wait that is over must not fail for that.
_ROUNDING_S = 1e-6


class TokenBucket:
    """`per_minute` tokens come in a minute, `burst` fit in (default: those of a minute, at least one). Starts full."""

    __slots__ = ("_full_s", "_span_s", "_token_s", "burst", "per_minute", "remaining")

    def __init__(self, per_minute: float, burst: int | None = None) -> None:
        self.per_minute = per_minute
        self.burst = burst or max(1, math.floor(per_minute))
        self.remaining = self.burst
        self._token_s = 60 / per_minute
        self._span_s = self.burst * self._token_s
        self._full_s = -math.inf

    def take(self, now_s: float) -> float:
        """0 if a token was taken; else the seconds until there is one, and nothing has changed."""
        full_s = (self._full_s if self._full_s > now_s else now_s) + self._token_s
        room_s = self._span_s - (full_s - now_s) + _ROUNDING_S
        if room_s < 0:
            self.remaining = 0
            return -room_s + _ROUNDING_S
        self._full_s = full_s
        self.remaining = int(room_s / self._token_s)
        return 0.0
