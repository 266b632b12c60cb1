"""Does a worker that lives still answer?

A stopped or deadlocked process accepts connections and says nothing, for ever. So each worker is asked for `/health`
more than once a second, which engines answer while they are busy generating, and which a vLLM whose engine has died
answers with 503 long before it ends by itself.
"""

from __future__ import annotations

import asyncio
import time

from server.connection import UpstreamLost
from server.pool import UpstreamPool, fetch

PROBE_EVERY_S = 0.75
NO_ANSWER = 0


async def until_silent(pool: UpstreamPool, patience_s: float) -> str:
    """Returns when the worker has not answered for `patience_s`, or says itself that it is broken; the reason.

    One question waits for half the patience at most: a pause of this process alone never makes a worker silent.
    """
    answered_s = time.monotonic()
    while True:
        status = await _ask(pool, patience_s / 2)
        if status >= 500:
            return f"it answered {status} when asked for its health"
        now_s = time.monotonic()
        if status != NO_ANSWER:
            answered_s = now_s
        elif now_s - answered_s >= patience_s:
            return f"it did not answer for {patience_s:g} s"
        await asyncio.sleep(min(PROBE_EVERY_S, patience_s / 4))


async def _ask(pool: UpstreamPool, within_s: float) -> int:
    try:
        async with asyncio.timeout(within_s):
            status, _ = await fetch(pool, "GET", "/health")
    except (OSError, UpstreamLost):
        return NO_ANSWER
    return status
