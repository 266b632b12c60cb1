"""Who carries out what the policy of the layout `swap` says?

It looks when a state has changed or a request begins to wait, and every now and then while anybody waits: a variant
that has become idle tells nobody. In the layout `resident` the same loop wakes whoever was sent to sleep on request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from artifacts.limits import Swap
from server.keeper import Keeper
from server.swap import Standing, awake_count, next_actions
from server.workshop import Workshop

LOOK_EVERY_S = 0.05


class Swapper:
    """`everybody` is asked anew each time, because a reload changes who is there."""

    def __init__(self, everybody: Callable[[], list[Keeper]], shop: Workshop, stirred: asyncio.Event) -> None:
        self._everybody = everybody
        self._shop = shop
        self._stirred = stirred

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            keepers = {keeper.name: keeper for keeper in ours(self._everybody())}
            standings = [standing_of(keeper) for keeper in keepers.values()]
            for action in next_actions(standings, time.monotonic(), self._settings):
                keepers[action.name].obey(action.order)
            self._stirred.clear()
            await self._until_worth_a_look(any(standing.calls for standing in standings))

    @property
    def has_room(self) -> bool:
        """Whether one more variant may be awake."""
        return awake_count(map(standing_of, ours(self._everybody()))) < self._settings.awake

    @property
    def _settings(self) -> Swap:
        return self._shop.fleet.swap if self._shop.swaps else Swap(awake=max(1, len(self._everybody())))

    async def _until_worth_a_look(self, somebody_waits: bool) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY_S if somebody_waits else None):
                await self._stirred.wait()
        except TimeoutError:
            return


def ours(keepers: Iterable[Keeper]) -> list[Keeper]:
    """Servers of somebody else's take none of this machine's memory, and do not sleep."""
    return [keeper for keeper in keepers if keeper.is_ours]


def standing_of(keeper: Keeper) -> Standing:
    life, gate = keeper.variant.lifecycle, keeper.variant.gate
    return Standing(
        keeper.name, life.state, life.since_s, gate.in_flight, gate.waiting_since_s, keeper.berth.has_worker
    )
