"""In which state is a variant, how did it come there, and when is it tried again?

A pure value: the supervisor replaces it, everybody else reads it. A variant whose worker dies waits, each time twice
as long up to a ceiling, and is forgiven after it has served for a while. A remote one is ready again without a start.

A variant that is `dozing` finishes its requests before it sleeps, one that is `draining` before it stops: while the
first dozes, sleeps or wakes, new requests wait in its queue; the second refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

State = Literal["queued", "starting", "ready", "dozing", "asleep", "waking", "draining", "backoff", "stopped"]
STATES: tuple[State, ...] = get_args(State)

# Requests wait, because the variant will take them without anybody's doing.
QUEUEING: frozenset[State] = frozenset({"dozing", "asleep", "waking"})
# Requests are taken, at once or later.
TAKING: frozenset[State] = QUEUEING | {"ready"}

FIRST_DELAY_S = 1.0
CEILING_DELAY_S = 60.0
FORGIVEN_AFTER_S = 300.0

_NEXT: dict[State, tuple[State, ...]] = {
    "queued": ("starting", "asleep", "stopped"),
    "starting": ("ready", "backoff", "stopped"),
    "ready": ("dozing", "draining", "backoff", "stopped"),
    "dozing": ("asleep", "draining", "stopped"),
    "asleep": ("waking", "stopped"),
    "waking": ("ready", "asleep", "backoff", "stopped"),
    "draining": ("stopped",),
    "backoff": ("starting", "ready", "asleep", "stopped"),
    "stopped": ("queued", "asleep"),
}


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """`since_s` is on the caller's monotonic clock; `failures` counts those in a row, `restarts` all of them."""

    state: State = "queued"
    since_s: float = 0.0
    failures: int = 0
    restarts: int = 0
    reason: str | None = None

    def queued(self, now_s: float) -> Lifecycle:
        return replace(self._to("queued", now_s), reason=None)

    def starting(self, now_s: float) -> Lifecycle:
        restarts = self.restarts + (self.state == "backoff")
        return replace(self._to("starting", now_s), restarts=restarts)

    def ready(self, now_s: float) -> Lifecycle:
        return replace(self._to("ready", now_s), reason=None)

    def dozing(self, now_s: float) -> Lifecycle:
        return self._to("dozing", now_s)

    def asleep(self, now_s: float) -> Lifecycle:
        """A variant that sleeps after a failure keeps its reason until it is ready again."""
        return replace(self._to("asleep", now_s), reason=None if self.state == "stopped" else self.reason)

    def waking(self, now_s: float) -> Lifecycle:
        restarts = self.restarts + (self.reason is not None)
        return replace(self._to("waking", now_s), restarts=restarts)

    def draining(self, now_s: float, reason: str) -> Lifecycle:
        return replace(self._to("draining", now_s), reason=reason)

    def failed(self, now_s: float, reason: str) -> Lifecycle:
        forgiven = self.state == "ready" and now_s - self.since_s >= FORGIVEN_AFTER_S
        failures = 1 if forgiven else self.failures + 1
        return replace(self._to("backoff", now_s), failures=failures, reason=reason)

    def stopped(self, now_s: float, reason: str | None = None) -> Lifecycle:
        return self if self.state == "stopped" else replace(self._to("stopped", now_s), reason=reason or self.reason)

    @property
    def delay_s(self) -> float:
        """Seconds to wait in `backoff` before the next start; 0 in every other state."""
        if self.state != "backoff":
            return 0.0
        return float(min(CEILING_DELAY_S, FIRST_DELAY_S * 2 ** min(self.failures - 1, 30)))

    def _to(self, state: State, now_s: float) -> Lifecycle:
        if state not in _NEXT[self.state]:
            raise ValueError(f"a variant cannot go from {self.state} to {state}; allowed: {_NEXT[self.state]}")
        return replace(self, state=state, since_s=now_s)
