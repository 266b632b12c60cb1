"""How does a variant sleep, and wake?

On a CPU, and with engines that cannot do better, it stops and starts. vLLM on a GPU keeps its process: level 1 moves
the weights to the host's memory, level 2 drops them and reads them from disk again; both free the KV cache's memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from artifacts.errors import ServingError
from artifacts.fleet import Fleet, VariantEntry
from server.connection import UpstreamLost
from server.engines import Machine, sleeps_in_place
from server.pool import UpstreamPool, fetch

_RELOAD = json.dumps({"method": "reload_weights"}).encode()
# A partial wake keeps the rest asleep: nothing is scheduled before the KV cache is back, so on weights that are read.
_WAKE_CALLS: dict[int, tuple[tuple[str, bytes], ...]] = {
    1: (("/wake_up", b""),),
    2: (
        ("/wake_up?tags=weights", b""),
        ("/collective_rpc", _RELOAD),
        ("/wake_up?tags=kv_cache", b""),
        ("/reset_prefix_cache", b""),
    ),
}


class Bed(Protocol):
    """The worker that sleeps: what can be done with its process."""

    @property
    def pool(self) -> UpstreamPool: ...

    @property
    def has_worker(self) -> bool: ...

    async def bring_up(self) -> None: ...

    async def take_down(self) -> None: ...


class Sleep(Protocol):
    """Both are called with no request inside; `wake` raises ServingError if there is no awake worker afterwards."""

    async def fall_asleep(self, bed: Bed) -> None: ...

    async def wake(self, bed: Bed) -> None: ...


class StopAndStart:
    """The process ends, and with it everything it held."""

    async def fall_asleep(self, bed: Bed) -> None:
        await bed.take_down()

    async def wake(self, bed: Bed) -> None:
        await bed.bring_up()


@dataclass(frozen=True, slots=True)
class SleepInPlace:
    """vLLM's sleep mode. A worker that will not sleep is stopped; one that is gone, or was never up, is started."""

    level: int

    async def fall_asleep(self, bed: Bed) -> None:
        try:
            await _call(bed.pool, f"/sleep?level={self.level}", b"")
        except ServingError:
            await bed.take_down()

    async def wake(self, bed: Bed) -> None:
        if not bed.has_worker:
            await bed.bring_up()
            return
        for path, body in _WAKE_CALLS[self.level]:
            await _call(bed.pool, path, body)


def way_to_sleep(entry: VariantEntry, fleet: Fleet, machine: Machine) -> Sleep:
    return SleepInPlace(fleet.swap.level) if sleeps_in_place(entry, fleet, machine) else StopAndStart()


async def _call(pool: UpstreamPool, path: str, body: bytes) -> None:
    try:
        status, answer = await fetch(pool, "POST", path, body)
    except (OSError, UpstreamLost) as error:
        raise ServingError(f"The worker did not answer POST {path} ({error or 'connection lost'}).") from error
    if status != 200:
        detail = answer.decode("utf-8", "replace")[:200]
        raise ServingError(f"The worker answered {status} to POST {path}: {detail}")
