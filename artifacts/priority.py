"""Is a small process woken at once? On a machine that it shares with busy engines it must come first.

The load client and the gateway each use a few per cent of a core but stand on every token's path. A fair scheduler on
a machine with more runnable threads than cores lets them wait: a sleeper's wake-up was late by 27 ms at p99 beside a
busy engine on two cores, by 0.3 ms in the scheduler's real-time class; and a gateway that waits hands its client two
tokens at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def served_first() -> Iterator[bool]:
    """Puts this thread into the lowest real-time class for the time of the block; yields whether that was allowed.

    Threads and processes it starts are not: engines must not inherit it. Linux allows it to root and to holders of
    CAP_SYS_NICE; elsewhere the load test's gates decide whether it was needed.
    """
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(
            0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        )
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, before, parameters)
