"""Is every order possible, done already or refused in exactly the states where it should be?"""

from __future__ import annotations

import pytest

from artifacts.errors import ServingError
from server.lifecycle import STATES, State
from server.orders import ORDERS, Order, to_be_done

# d: to be done, -: done already, x: refused. In the order of STATES.
#            queued starting ready dozing asleep waking draining backoff stopped
TABLE: dict[Order, str] = {
    "start": "-     -        -     -      -      -      x        d       d",
    "stop": " d     d        d     d      d      d      d        d       -",
    "drain": "d     d        d     d      d      d      -        d       -",
    "sleep": "x     x        d     -      -      x      x        x       x",
    "wake": " x     x        -     x      d      -      x        x       x",
}
CASES = [(order, state, what) for order in ORDERS for state, what in zip(STATES, TABLE[order].split(), strict=True)]


@pytest.mark.parametrize(("order", "state", "what"), CASES)
def test_orders(order: Order, state: State, what: str) -> None:
    if what == "x":
        with pytest.raises(ServingError, match=f"'a' is {state}: it cannot be told to {order}") as caught:
            to_be_done(order, "a", state)
        assert (caught.value.status, caught.value.code) == (409, "impossible_in_this_state")
    else:
        assert to_be_done(order, "a", state) == (what == "d")


def test_a_refusal_says_when_it_would_be_possible() -> None:
    with pytest.raises(ServingError, match="That is possible when it is backoff or stopped"):
        to_be_done("start", "a", "draining")
