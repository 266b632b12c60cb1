"""Has a worker been waited for long enough?

One timer per request looks now and then, and is armed again only when it fires: a token costs nothing. A silence is
therefore noticed up to an eighth of the patience late, never early. Time in which the client takes nothing is not the
worker's.
"""

from __future__ import annotations

from artifacts.errors import ServingError
from artifacts.limits import Timeouts
from server import faults

_LOOKS_PER_SILENCE = 8


class Patience:
    """The verdicts over one answer. The clock is the caller's."""

    __slots__ = ("_allowed", "_began_s", "_begun", "_heard_s", "_name")

    def __init__(self, name: str, allowed: Timeouts, now_s: float) -> None:
        self._name = name
        self._allowed = allowed
        self._began_s = now_s
        self._heard_s = now_s
        self._begun = False

    def fault(self, now_s: float, *, heard: bool, paused: bool) -> ServingError | None:
        """What is too late, if anything is. `heard`: some of the answer's body came since the last look."""
        allowed, waited_s = self._allowed, now_s - self._began_s
        self._begun |= heard
        if heard or paused:
            self._heard_s = now_s
        if waited_s >= allowed.total_s:
            return faults.too_slow(self._name, "total", allowed.total_s)
        if not self._begun and waited_s >= allowed.first_token_s:
            return faults.too_slow(self._name, "first_token", allowed.first_token_s)
        if self._begun and now_s - self._heard_s >= allowed.between_tokens_s:
            return faults.too_slow(self._name, "between_tokens", allowed.between_tokens_s)
        return None

    def next_look_s(self, now_s: float) -> float:
        """When to look again, on the same clock."""
        allowed = self._allowed
        soonest_s = now_s + allowed.between_tokens_s / _LOOKS_PER_SILENCE
        ends_s = self._began_s + (allowed.total_s if self._begun else min(allowed.first_token_s, allowed.total_s))
        return min(ends_s, soonest_s)
