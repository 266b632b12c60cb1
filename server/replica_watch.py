"""Who notices that a server behind a URL has died, or is back, when nobody sends it requests?

One task per replica asks it in turn with its requests' own outcomes. `/health` is what vLLM has; a server without it is
asked for its models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from server.connection import UpstreamLost
from server.health import unproven
from server.pool import UpstreamPool, fetch
from server.registry import ServedVariant
from server.replicas import Replica
from server.worker import until_ready

PROBE_TIMEOUT_S = 2.0
_NO_SUCH_ROUTE = (404, 405, 501)


async def first_token(variant: ServedVariant) -> None:
    """Returns once one replica has generated a token; the others must answer a probe first. Raises ServingError."""
    asked = {asyncio.ensure_future(until_ready(r.pool, variant.served_name)): r for r in variant.replicas}
    try:
        done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for task in pending:
            asked[task].health = unproven("it has not answered yet")
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def watch(variant: ServedVariant, announce: Callable[[str], None]) -> None:
    """Asks every replica again and again until cancelled, and announces who is ejected and readmitted."""
    async with asyncio.TaskGroup() as group:
        for replica in variant.replicas:
            group.create_task(_watch_one(variant, replica, announce))


async def _watch_one(variant: ServedVariant, replica: Replica, announce: Callable[[str], None]) -> None:
    known_as_ejected = replica.ejected
    while True:
        variant.note(replica, await why_unwell(replica.pool), time.monotonic())
        if replica.ejected != known_as_ejected:
            known_as_ejected = replica.ejected
            announce(f"{variant.name}: {_change(replica)}")
        await asyncio.sleep(replica.health.probe_in_s)


def _change(replica: Replica) -> str:
    if replica.ejected:
        return f"{replica.url} gets no requests for now ({replica.health.reason})"
    return f"{replica.url} gets requests"


async def why_unwell(pool: UpstreamPool) -> str | None:
    """None for a server that answers in time, and with something else than a fault of its own."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            status, _ = await fetch(pool, "GET", "/health")
            if status in _NO_SUCH_ROUTE:
                status, _ = await fetch(pool, "GET", "/v1/models")
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    except UpstreamLost:
        return "it hung up without an answer"
    return f"it answers {status}" if status >= 500 else None
