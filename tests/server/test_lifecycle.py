"""Does a variant wait as long as it should, and go only where it may?"""

from __future__ import annotations

import itertools

import pytest

from server.lifecycle import CEILING_DELAY_S, FORGIVEN_AFTER_S, QUEUEING, STATES, TAKING, Lifecycle, State


def crashed(times: int, up_s: float = 0.0) -> Lifecycle:
    """A variant that came up and crashed `times` times, each time after `up_s` seconds."""
    life, now_s = Lifecycle(), 0.0
    for _ in range(times):
        life = life.starting(now_s).ready(now_s)
        now_s += up_s
        life = life.failed(now_s, "boom")
    return life


@pytest.mark.parametrize(("times", "delay_s"), [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (8, 60), (1000, 60)])
def test_delay_doubles_up_to_the_ceiling(times: int, delay_s: float) -> None:
    assert crashed(times).delay_s == delay_s


def test_delays_never_fall_while_crashes_follow_each_other() -> None:
    delays = [crashed(times).delay_s for times in range(1, 20)]
    assert all(before <= after for before, after in itertools.pairwise(delays))
    assert max(delays) == CEILING_DELAY_S


def test_crashes_are_forgiven_after_a_long_good_time_only() -> None:
    assert crashed(5, up_s=FORGIVEN_AFTER_S).delay_s == 1
    assert crashed(5, up_s=FORGIVEN_AFTER_S - 1).delay_s == 16


def test_a_failed_start_counts_like_a_crash() -> None:
    life = Lifecycle().starting(0).failed(1, "first").starting(2).failed(3, "second")
    assert (life.failures, life.reason, life.delay_s) == (2, "second", 2)


def test_restarts_count_starts_after_a_failure_not_the_first() -> None:
    assert Lifecycle().starting(0).restarts == 0
    assert crashed(3).restarts == 2
    assert crashed(3).starting(9).restarts == 3


def test_the_reason_is_kept_until_the_variant_is_ready_again() -> None:
    again = crashed(1).starting(5)
    assert again.reason == "boom"
    assert again.ready(6).reason is None


@pytest.mark.parametrize("state", STATES)
def test_only_a_waiting_variant_waits(state: State) -> None:
    assert (Lifecycle(state=state, failures=1).delay_s > 0) == (state == "backoff")


MOVES = [
    ("queued", {"starting", "asleep", "stopped"}, "a queued variant gets its turn, or sleeps until it is asked for"),
    ("starting", {"ready", "failed", "stopped"}, "a start ends well or badly"),
    ("ready", {"dozing", "draining", "failed", "stopped"}, "a ready worker goes to sleep, leaves, or dies"),
    (
        "dozing",
        {"asleep", "draining", "stopped"},
        "whoever dozes sleeps next: a worker that dies meanwhile is asleep too",
    ),
    ("asleep", {"waking", "stopped"}, "a sleeper wakes before it does anything else"),
    ("waking", {"ready", "asleep", "failed", "stopped"}, "waking is a start that can be called off"),
    ("draining", {"stopped"}, "whoever drains does not come back by itself"),
    (
        "backoff",
        {"starting", "ready", "asleep", "stopped"},
        "then comes another start, or a remote one is back",
    ),
    ("stopped", {"queued", "asleep", "stopped"}, "a stopped one is started on request; the end may be told twice"),
]


def test_the_table_names_every_state() -> None:
    assert [state for state, *_ in MOVES] == list(STATES)


@pytest.mark.parametrize(("state", "allowed", "why"), MOVES)
def test_moves(state: State, allowed: set[str], why: str) -> None:
    life = Lifecycle(state=state)
    moves = {
        "queued": lambda: life.queued(1),
        "starting": lambda: life.starting(1),
        "ready": lambda: life.ready(1),
        "dozing": lambda: life.dozing(1),
        "asleep": lambda: life.asleep(1),
        "waking": lambda: life.waking(1),
        "draining": lambda: life.draining(1, "on request"),
        "failed": lambda: life.failed(1, "boom"),
        "stopped": lambda: life.stopped(1),
    }
    for name, move in moves.items():
        if name in allowed:
            assert move().state == {"failed": "backoff"}.get(name, name), why
        else:
            with pytest.raises(ValueError, match="a variant cannot go from"):
                move()


def test_waiting_states_take_requests_and_leaving_ones_do_not() -> None:
    assert {"dozing", "asleep", "waking"} == QUEUEING
    assert {"ready", "dozing", "asleep", "waking"} == TAKING


def test_a_wake_after_a_failure_counts_as_a_restart_and_keeps_the_reason_until_ready() -> None:
    failed = Lifecycle().starting(0).ready(0).failed(1, "boom").asleep(2)
    assert (failed.reason, failed.waking(3).restarts, failed.waking(3).ready(4).reason) == ("boom", 1, None)
    slept = Lifecycle().starting(0).ready(0).dozing(1).asleep(2)
    assert slept.waking(3).restarts == 0


def test_a_stop_says_why_and_a_start_forgets_it() -> None:
    stopped = Lifecycle().starting(0).ready(0).draining(1, "on request").stopped(2)
    assert (stopped.reason, stopped.queued(3).reason, stopped.asleep(3).reason) == ("on request", None, None)
    assert Lifecycle().starting(0).failed(1, "boom").stopped(2).reason == "boom"
