"""Does the policy serve whoever has waited longest, respect its limits, and leave alone whoever nobody waits for?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.limits import Swap
from server.lifecycle import State
from server.swap import Action, Standing, awake_count, next_actions

NOW_S = 100.0


def v(name: str, state: State, since_s: float = 0.0, inside: int = 0, waits: float | None = None) -> Standing:
    return Standing(name, state, since_s, inside, waits)


def sleep(name: str) -> Action:
    return Action("sleep", name)


def wake(name: str) -> Action:
    return Action("wake", name)


TABLE: list[tuple[int, list[Standing], list[Action], str]] = [
    (1, [v("a", "ready"), v("b", "asleep")], [], "nobody waits"),
    (1, [v("a", "ready", inside=9), v("b", "asleep")], [], "one alone has work"),
    (1, [v("a", "ready"), v("b", "asleep", waits=99)], [sleep("a")], "an idle one makes room at once"),
    (1, [v("a", "ready", 99.9), v("b", "asleep", waits=99)], [sleep("a")], "even one that woke just now"),
    (1, [v("a", "ready", 99, inside=1), v("b", "asleep", waits=99)], [], "a busy one stays for its time"),
    (1, [v("a", "ready", 98, inside=1), v("b", "asleep", waits=99)], [sleep("a")], "and no longer"),
    (1, [v("a", "dozing", inside=1), v("b", "asleep", waits=99)], [], "room is being made already"),
    (1, [v("a", "draining", inside=1), v("b", "asleep", waits=99)], [], "a leaving one makes room too"),
    (1, [v("a", "asleep"), v("b", "asleep", waits=99)], [wake("b")], "there is room"),
    (1, [v("a", "asleep", waits=9), v("b", "asleep", waits=7)], [wake("b")], "the oldest request first"),
    (1, [v("a", "waking"), v("b", "asleep", waits=9)], [], "one that wakes is not disturbed"),
    (1, [v("a", "starting"), v("b", "asleep", waits=9)], [], "nor one that starts"),
    (1, [v("a", "backoff"), v("b", "asleep", waits=9)], [wake("b")], "a dead one takes no room"),
    (1, [replace(v("a", "backoff"), has_process=True), v("b", "asleep", waits=9)], [], "unless it is still there"),
    (
        1,
        [replace(v("a", "stopped"), has_process=True), v("b", "asleep", waits=9)],
        [],
        "nor may a stopping one overlap",
    ),
    (1, [v("a", "stopped"), v("b", "asleep", waits=9)], [wake("b")], "a stopped one is gone"),
    (1, [replace(v("a", "asleep"), has_process=True), v("b", "asleep", waits=9)], [wake("b")], "asleep in place"),
    (2, [v("a", "ready"), v("b", "asleep", waits=9)], [wake("b")], "two may be awake"),
    (2, [v("a", "ready", 5), v("b", "ready", 3), v("c", "asleep", waits=9)], [sleep("b")], "the longest awake goes"),
    (
        2,
        [v("a", "ready", 5), v("b", "ready", 3, inside=1), v("c", "asleep", waits=9)],
        [sleep("a")],
        "an idle one before a busy one",
    ),
    (
        2,
        [v("a", "ready", 5), v("b", "ready", 3), v("c", "asleep", waits=9), v("d", "asleep", waits=8)],
        [sleep("b"), sleep("a")],
        "as many as are wanted",
    ),
    (2, [v("a", "dozing"), v("b", "ready"), v("c", "asleep", waits=9)], [], "one that leaves is enough for one"),
    (2, [v("a", "ready"), v("b", "asleep", waits=9), v("c", "asleep", waits=8)], [wake("c"), sleep("a")], "both"),
    (1, [v("a", "ready", 2), v("b", "ready", 1)], [sleep("b")], "fewer may be awake since a reload"),
]


@pytest.mark.parametrize(("awake", "standings", "expected", "why"), TABLE, ids=[why for *_, why in TABLE])
def test_table(awake: int, standings: list[Standing], expected: list[Action], why: str) -> None:
    assert next_actions(standings, NOW_S, Swap(awake=awake, min_awake_s=2)) == expected, why


@dataclass
class Variant:
    """A simulated variant: requests that arrive at known times and take known times; dozing and waking take theirs."""

    name: str
    arrivals: list[tuple[float, float]]
    state: State = "asleep"
    since_s: float = 0.0
    queue: list[tuple[float, float]] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def standing(self) -> Standing:
        oldest = self.queue[0][0] if self.queue else None
        return Standing(self.name, self.state, self.since_s, len(self.inside), oldest)

    def enter(self, state: State, now_s: float) -> None:
        self.state, self.since_s = state, now_s

    def step(self, now_s: float, wake_s: float) -> None:
        while self.arrivals and self.arrivals[0][0] <= now_s:
            self.queue.append(self.arrivals.pop(0))
        self.inside = [end_s for end_s in self.inside if end_s > now_s]
        if self.state == "waking" and now_s - self.since_s >= wake_s:
            self.enter("ready", now_s)
        if self.state == "dozing" and not self.inside:
            self.enter("asleep", now_s)
        if self.state == "ready":
            for came_s, takes_s in self.queue:
                self.waits_s.append(now_s - came_s)
                self.inside.append(now_s + takes_s)
            self.queue.clear()


STEP_S = 0.25
WAKE_S = 1.0
LONGEST_S = 4.0
WORK = st.lists(st.tuples(st.floats(0, 60), st.floats(0.1, LONGEST_S)), max_size=40).map(sorted)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORK, min_size=2, max_size=5), st.integers(1, 3), st.floats(0, 5))
def test_any_traffic_is_served_in_bounded_time_and_never_by_too_many(
    work: list[list[tuple[float, float]]], awake: int, min_awake_s: float
) -> None:
    variants = [Variant(f"v{index}", list(arrivals)) for index, arrivals in enumerate(work)]
    chosen = Swap(awake=awake, min_awake_s=min_awake_s)
    turn_s = min_awake_s + LONGEST_S + WAKE_S + 4 * STEP_S
    now_s = 0.0
    while any(variant.arrivals or variant.queue or variant.inside for variant in variants):
        now_s += STEP_S
        assert now_s < 60 + (len(variants) + 1) * turn_s + LONGEST_S, "somebody starves"
        for variant in variants:
            variant.step(now_s, WAKE_S)
        before = {variant.name: variant for variant in variants}
        for action in next_actions([variant.standing() for variant in variants], now_s, chosen):
            told = before[action.name]
            if action.order == "wake":
                assert told.state == "asleep" and told.queue
                told.enter("waking", now_s)
            else:
                assert told.state == "ready"
                assert not told.inside or now_s - told.since_s >= min_awake_s
                told.enter("dozing", now_s)
        assert awake_count(variant.standing() for variant in variants) <= awake
    longest_wait_s = max((wait for variant in variants for wait in variant.waits_s), default=0.0)
    assert longest_wait_s <= len(variants) * turn_s
    assert sum(len(variant.waits_s) for variant in variants) == sum(map(len, work))


def test_one_variant_alone_wakes_once_whatever_its_pauses() -> None:
    alone = Variant("a", [(float(second), 0.5) for second in range(0, 100, 7)])
    idle = Variant("b", [])
    orders: list[Action] = []
    for step in range(600):
        now_s = step * STEP_S
        for variant in (alone, idle):
            variant.step(now_s, WAKE_S)
        for action in next_actions([alone.standing(), idle.standing()], now_s, Swap()):
            orders.append(action)
            alone.enter("waking" if action.order == "wake" else "dozing", now_s)
    assert orders == [wake("a")]
    assert len(alone.waits_s) == 15
