"""Who starts the fleet's variants, tells them what was ordered, follows the fleet file, and stops them all?

Starts are serial unless the fleet says otherwise: two engines that load at the same time measure each other's memory,
if they size their caches by it. A start that fails at first is an error of the whole server, because a fleet that was
never complete should be noticed; a worker that dies later costs its own variant only, which waits and is tried again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet
from server import faults
from server.berth import checkpoint_of
from server.engines import Machine
from server.keeper import Keeper
from server.orders import Order
from server.registry import Registry
from server.reload import ReloadPlan, reload_plan
from server.swapping import Swapper, ours
from server.workshop import Announce, Workshop


class Supervisor:
    """The workers of one registry. Logs go to `log_dir`, a few bounded files per variant.

    `source` is the fleet file, None for a fleet without one. `broken` carries the error that ended the watch over a
    worker; nobody restarts that worker any more.
    """

    def __init__(
        self, registry: Registry, machine: Machine, log_dir: Path, announce: Announce, source: Path | None = None
    ) -> None:
        self._registry = registry
        self._source = source
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stirred = asyncio.Event()
        self._shop = Workshop(registry, machine, log_dir, announce, self.broken, stirred.set)
        self._keepers = {variant.name: Keeper(variant, self._shop) for variant in registry}
        self._leaving: dict[str, Keeper] = {}
        self._swapper = Swapper(lambda: self._everybody, self._shop, stirred)
        self._tasks: set[asyncio.Task[None]] = set()
        self._complete = False

    async def start_all(self) -> None:
        """Checks every variant, then starts them in turn; in the layout `swap` the first few only.

        Raises PrunebenchError at the first that fails.
        """
        for variant in self._registry:
            variant.checkpoint = await checkpoint_of(variant.entry)
        self._shop.require_memory([v.entry for v in self._registry], self._registry.fleet)
        asleep = self._first_asleep()
        for keeper in asleep:
            keeper.begin_asleep()
        awake = [keeper for keeper in self._keepers.values() if keeper not in asleep]
        at_once = self._registry.fleet.starts_at_once
        for first in range(0, len(awake), at_once):
            await _begin(awake[first : first + at_once])
        self._complete = True
        self._look_after(asyncio.create_task(self._swapper.run()))

    def _first_asleep(self) -> list[Keeper]:
        return ours(self._keepers.values())[self._registry.fleet.swap.awake :] if self._shop.swaps else []

    def order(self, name: str, order: Order) -> bool:
        """False if there was nothing to do. Raises ServingError (404, 409, 503)."""
        self._require_orders_taken()
        keeper = self._keepers.get(name)
        if keeper is None:
            raise faults.unknown_variant(name, self._keepers)
        if order == "wake" and keeper.variant.lifecycle.state == "asleep" and not self._swapper.has_room:
            raise faults.no_room_awake(name, self._registry.fleet.swap.awake)
        return keeper.obey(order)

    def _require_orders_taken(self) -> None:
        if self._registry.draining:
            raise faults.draining()
        if not self._complete:
            raise faults.still_starting()

    async def reload(self) -> ReloadPlan:
        """Reads the fleet file again. Returns when it counts; what it sets going may take its time.

        Raises ConfigError, CheckpointError or ServingError if it cannot be taken; then nothing has changed.
        """
        self._require_orders_taken()
        if self._source is None:
            raise ConfigError("This fleet was made of folders; only one that was read from a file can be reloaded.")
        fleet = Fleet.load(self._source)
        before = self._registry.fleet
        plan = reload_plan(before, fleet)
        await self._vet(plan, fleet)
        if self._registry.fleet is not before:
            raise ConfigError("The fleet file was reloaded by somebody else at the same time. Reload it again.")
        self._follow(plan, fleet)
        self._shop.announce(f"fleet file read again: {plan}")
        return plan

    async def _vet(self, plan: ReloadPlan, fleet: Fleet) -> None:
        back = sorted(self._leaving.keys() & {entry.name for entry in plan.added})
        if back:
            raise ConfigError(f"{', '.join(back)} has yet to finish its last requests. Reload when it has.")
        for entry in (*plan.added, *plan.changed):
            await checkpoint_of(entry)
        self._shop.require_memory(plan.added, fleet)

    def _follow(self, plan: ReloadPlan, fleet: Fleet) -> None:
        self._registry.adopt(fleet)
        for entry in plan.unaffected:
            self._keepers[entry.name].variant.entry = entry
        for name in plan.removed:
            keeper = self._leaving[name] = self._keepers.pop(name)
            self._look_after(asyncio.create_task(self._forget_after(keeper.drain(), name)))
        for entry in plan.changed:
            self._keepers[entry.name].renew(entry)
        for entry in plan.added:
            variant = self._registry.get(entry.name)
            assert variant is not None
            self._keepers[entry.name] = Keeper(variant, self._shop)
            self._keepers[entry.name].start()

    async def _forget_after(self, drained: asyncio.Task[None], name: str) -> None:
        await asyncio.wait([drained])
        self._registry.forget(name)
        del self._leaving[name]

    async def stop_all(self) -> None:
        """Ends all workers together; none is left when this returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(keeper.close() for keeper in self._everybody))

    async def cut_off(self, after_s: float) -> None:
        """After so many seconds, whoever still waits or is answered gets an error in place of the rest."""
        await asyncio.sleep(after_s)
        for keeper in self._everybody:
            keeper.cut_off()

    def kill_all(self) -> None:
        """Shortens a `stop_all` that is under way."""
        for keeper in self._everybody:
            keeper.berth.kill()

    @property
    def _everybody(self) -> list[Keeper]:
        return [*self._keepers.values(), *self._leaving.values()]

    def _look_after(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.broken.done():
            self.broken.set_exception(error)


async def _begin(keepers: list[Keeper]) -> None:
    """All at once. Raises the first failure; then the others are given up."""
    starts = [asyncio.create_task(keeper.begin()) for keeper in keepers]
    try:
        await asyncio.gather(*starts)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
