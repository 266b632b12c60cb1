"""What can a variant be told to do, and in which state?

`stop` is at once: requests inside end with an error. `drain` lets them finish first. A sleeping variant wakes by itself
as soon as a request waits for it; a stopped one only when it is started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from server import faults
from server.lifecycle import STATES, State

Order = Literal["start", "stop", "drain", "sleep", "wake"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class _Rule:
    """States in which the order has something to do, and those in which it is done already or under way."""

    possible: frozenset[State]
    done: frozenset[State]


def _rule(possible: tuple[State, ...], done: tuple[State, ...]) -> _Rule:
    return _Rule(frozenset(possible), frozenset(done))


_GONE: tuple[State, ...] = ("draining", "stopped")
_RULES: dict[Order, _Rule] = {
    "start": _rule(("stopped", "backoff"), tuple(s for s in STATES if s not in (*_GONE, "backoff"))),
    "stop": _rule(tuple(s for s in STATES if s != "stopped"), ("stopped",)),
    "drain": _rule(tuple(s for s in STATES if s not in _GONE), _GONE),
    "sleep": _rule(("ready",), ("dozing", "asleep")),
    "wake": _rule(("asleep",), ("waking", "ready")),
}


def to_be_done(order: Order, name: str, state: State) -> bool:
    """False if it is done already or under way. Raises ServingError (409) if it is impossible in this state."""
    rule = _RULES[order]
    if state not in rule.possible and state not in rule.done:
        raise faults.impossible_order(name, order, state, sorted(rule.possible))
    return state in rule.possible
