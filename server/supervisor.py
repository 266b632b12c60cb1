"""Who starts the fleet's variants, lets them take turns, and stops them all?

Starts are serial: two engines that load at the same time measure each other's memory. A start that fails at first is
an error of the whole server, because a fleet that was never complete should be noticed; a worker that dies later costs
its own variant only, which waits and is tried again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from server import faults
from server.berth import checkpoint_of
from server.engines import Machine
from server.keeper import Keeper
from server.orders import Order
from server.registry import Registry
from server.workshop import Announce, Workshop


class Supervisor:
    """The workers of one registry. Logs go to `log_dir`, a few bounded files per variant.

    `broken` carries the error that ended the watch over a worker; nobody restarts that worker any more.
    """

    def __init__(self, registry: Registry, machine: Machine, log_dir: Path, announce: Announce) -> None:
        self._registry = registry
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stirred = asyncio.Event()
        self._shop = Workshop(registry, machine, log_dir, announce, self.broken, self._stirred.set)
        self._keepers = {variant.name: Keeper(variant, self._shop) for variant in registry}
        self._complete = False

    async def start_all(self) -> None:
        """Checks every variant, then starts one after the other. Raises PrunebenchError at the first that fails."""
        for variant in self._registry:
            variant.checkpoint = await checkpoint_of(variant.entry)
        self._shop.require_memory([v.entry for v in self._registry], self._registry.fleet)
        for keeper in self._keepers.values():
            await keeper.begin()
        self._complete = True

    def order(self, name: str, order: Order) -> bool:
        """False if there was nothing to do. Raises ServingError (404, 409, 503)."""
        keeper = self._keepers.get(name)
        if keeper is None:
            raise faults.unknown_variant(name, self._keepers)
        if self._registry.draining:
            raise faults.draining()
        if not self._complete:
            raise faults.still_starting()
        return keeper.obey(order)

    async def stop_all(self) -> None:
        """Ends all workers together; none is left when this returns."""
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))

    async def cut_off(self, after_s: float) -> None:
        """After so many seconds, whoever still waits or is answered gets an error in place of the rest."""
        await asyncio.sleep(after_s)
        for keeper in self._keepers.values():
            keeper.cut_off()

    def kill_all(self) -> None:
        """Shortens a `stop_all` that is under way."""
        for keeper in self._keepers.values():
            keeper.berth.kill()
