"""Few variants may be awake together: which of them wakes next, and which sleeps for it?

A pure policy. Whoever has waited longest is served first, so nobody starves; an idle variant makes room at once, a busy
one after `min_awake_s`, the one that has been awake longest first. Without anybody waiting nothing moves: a variant
that alone has work stays awake for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from artifacts.limits import Swap
from server.lifecycle import State

# These hold an engine's memory, or are about to.
_AWAKE: frozenset[State] = frozenset({"starting", "ready", "dozing", "waking", "draining"})
_LEAVING: frozenset[State] = frozenset({"dozing", "draining"})


@dataclass(frozen=True, slots=True)
class Standing:
    """One variant now; times are on the caller's clock.

    `has_process` is true while its memory is not free in a state in which it should be: an engine that is stopping.
    """

    name: str
    state: State
    since_s: float = 0.0
    inside: int = 0
    waiting_since_s: float | None = None
    has_process: bool = False

    @property
    def is_awake(self) -> bool:
        return self.state in _AWAKE or (self.state in ("stopped", "backoff", "queued") and self.has_process)

    @property
    def is_leaving(self) -> bool:
        return self.state in _LEAVING or (self.is_awake and self.state not in _AWAKE)

    @property
    def calls(self) -> bool:
        return self.state == "asleep" and self.waiting_since_s is not None

    @property
    def is_idle(self) -> bool:
        return not self.inside and self.waiting_since_s is None

    def may_sleep(self, now_s: float, min_awake_s: float) -> bool:
        return self.state == "ready" and (self.is_idle or now_s - self.since_s >= min_awake_s)


@dataclass(frozen=True, slots=True)
class Action:
    """What one variant is told now."""

    order: Literal["wake", "sleep"]
    name: str


def awake_count(standings: Iterable[Standing]) -> int:
    return sum(standing.is_awake for standing in standings)


def next_actions(standings: Iterable[Standing], now_s: float, settings: Swap) -> list[Action]:
    """What to do now; to be asked again whenever something has changed, and while anybody waits from time to time."""
    all_of_them = list(standings)
    callers = sorted((s for s in all_of_them if s.calls), key=lambda s: s.waiting_since_s or 0.0)
    free = settings.awake - awake_count(all_of_them)
    woken = callers[: max(0, free)]
    lacking = len(callers) - free - sum(s.is_leaving for s in all_of_them)
    tired = sorted(
        (s for s in all_of_them if s.may_sleep(now_s, settings.min_awake_s)), key=lambda s: (not s.is_idle, s.since_s)
    )
    return [Action("wake", s.name) for s in woken] + [Action("sleep", s.name) for s in tired[: max(0, lacking)]]
