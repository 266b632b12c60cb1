"""The cheapest choice of one width per half layer when costs and errors both add up, found exactly.

States are (cost, error) pairs of the halves decided so far. A state that costs no less and errs no less than another
can never be part of a better whole and is dropped. Costs need not be whole numbers; where too many states survive they
share a number of equal cost intervals and each interval keeps its least error, with its exact cost, so that a budget
holds whatever was thinned out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_STATES = 4096


@dataclass(frozen=True, slots=True)
class Option:
    """One width of one half."""

    count: int
    cost: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    cost: float
    error: float
    option: Option | None = None
    before: _State | None = None


def best_options(
    halves: Sequence[Sequence[Option]], limit: float, most_states: int = MOST_STATES
) -> tuple[Option, ...] | None:
    """One option per half with the least summed error at a summed cost up to `limit`; None if nothing fits.

    Exact up to `most_states` states that no other dominates. Of equal errors the cheaper.
    """
    least_after = _least_costs_after(halves)
    states = [_State(0.0, 0.0)]
    for options, rest in zip(halves, least_after, strict=True):
        grown = [
            _State(state.cost + option.cost, state.error + option.error, option, state)
            for state in states
            for option in options
            if state.cost + option.cost + rest <= limit
        ]
        states = _thinned(_undominated(grown), most_states)
    if not states:
        return None
    return _trace(min(states, key=lambda state: (state.error, state.cost)))


def _least_costs_after(halves: Sequence[Sequence[Option]]) -> list[float]:
    """By half the least that all halves behind it cost."""
    least = [0.0]
    for options in reversed(halves[1:]):
        least.append(least[-1] + min(option.cost for option in options))
    return least[::-1]


def _undominated(states: list[_State]) -> list[_State]:
    """Ascending in cost, descending in error."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda state: (state.cost, state.error)):
        if not kept or state.error < kept[-1].error:
            kept.append(state)
    return kept


def _thinned(states: list[_State], most: int) -> list[_State]:
    if len(states) <= most:
        return states
    lowest, highest = states[0].cost, states[-1].cost
    interval = (highest - lowest) / (most - 1)
    last_of = {int((state.cost - lowest) / interval): state for state in states}
    return sorted({*last_of.values(), states[0]}, key=lambda state: state.cost)


def _trace(state: _State) -> tuple[Option, ...]:
    chosen: list[Option] = []
    while state.before is not None and state.option is not None:
        chosen.append(state.option)
        state = state.before
    return tuple(reversed(chosen))
