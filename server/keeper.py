"""Who looks after one variant: starts it, brings it back, lets it sleep, stops it?

A keeper is busy with one errand at a time. Whoever tells it something else changes the variant's state at once and
replaces the errand; the new one begins when the old one has tidied up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from artifacts.errors import PrunebenchError
from artifacts.fleet import VariantEntry
from artifacts.units import format_seconds
from server import faults
from server.berth import Berth
from server.lifecycle import QUEUEING, Lifecycle, State
from server.orders import Order, to_be_done
from server.registry import ServedVariant
from server.workshop import Workshop

ON_REQUEST = "on request"
_IN_SERVICE: frozenset[State] = frozenset({"queued", "starting", "ready", "waking", "backoff"})


class Keeper:
    """An error that no errand expects ends up in the workshop's `broken`."""

    def __init__(self, variant: ServedVariant, shop: Workshop) -> None:
        self.variant = variant
        self.berth = Berth(variant, shop)
        self._shop = shop
        self._errand: asyncio.Task[None] | None = None
        self._alone = asyncio.Lock()
        variant.gate.on_wait = shop.stir

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def is_ours(self) -> bool:
        """Whether the worker is a process of this server's."""
        return not self.variant.entry.urls

    # What it is told.

    async def begin(self) -> None:
        """The first start of all, without inspection. Raises PrunebenchError; then no process of it is left."""
        await self._start(inspect=False)
        self._turn_to(self._keep)

    def begin_asleep(self) -> None:
        self._enter(self._life.asleep(time.monotonic()))

    def obey(self, order: Order) -> bool:
        """False if there was nothing to do. Raises ServingError (409) if the variant's state does not allow it."""
        if order in ("sleep", "wake") and not self.is_ours:
            raise faults.not_our_worker(self.name, order)
        if not to_be_done(order, self.name, self._life.state):
            return False
        obeying: dict[Order, Callable[[], object]] = {
            "start": self.start,
            "stop": self.stop,
            "drain": self.drain,
            "sleep": self._doze,
            "wake": self._wake,
        }
        obeying[order]()
        return True

    def start(self) -> None:
        """In the layout `swap` the variant sleeps until it is asked for."""
        now_s = time.monotonic()
        if self._sleeps_by_itself:
            self._enter(self._life.asleep(now_s))
            self._turn_to(self.berth.take_down)
            return
        if self._life.state == "stopped":
            self._enter(self._life.queued(now_s))
        self._turn_to(self._serve)

    def stop(self) -> asyncio.Task[None]:
        """At once, whoever is inside."""
        self._enter(self._life.stopped(time.monotonic(), ON_REQUEST))
        self.cut_off()
        return self._turn_to(self.berth.take_down)

    def drain(self) -> asyncio.Task[None]:
        """Takes no new request, lets those inside finish in time, and stops; the task ends with all of it."""
        if self._life.state not in ("ready", "dozing"):
            return self.stop()
        self._enter(self._life.draining(time.monotonic(), ON_REQUEST))
        return self._turn_to(self._drain)

    def renew(self, entry: VariantEntry) -> None:
        """The variant gets another entry once its requests have finished. Those who come meanwhile wait if they can."""
        now_s, state = time.monotonic(), self._life.state
        if state == "ready":
            self._enter(self._life.dozing(now_s))
        elif state == "waking":
            self._enter(self._life.asleep(now_s))
        elif state in _IN_SERVICE:
            self._enter(self._life.stopped(now_s).queued(now_s))
        self._turn_to(lambda: self._renew(entry, goes_on=state in _IN_SERVICE))

    async def close(self) -> None:
        """The server ends: no errand and no process is left afterwards."""
        self._enter(self._life.stopped(time.monotonic()))
        closing = self._turn_to(self.berth.take_down)
        await asyncio.wait([closing])

    def cut_off(self) -> None:
        """Whoever waits is refused; whoever is inside gets the end of an answer that was broken off."""
        life = self._life
        self.variant.gate.dismiss(lambda: faults.not_ready(self.name, life.state, life.reason))
        self._cut_exchanges()

    def _cut_exchanges(self) -> None:
        for replica in self.variant.replicas:
            replica.pool.cut()

    def _doze(self) -> None:
        self._enter(self._life.dozing(time.monotonic()))
        self._turn_to(self._fall_asleep)

    def _wake(self) -> None:
        self._enter(self._life.waking(time.monotonic()))
        self._turn_to(self._serve)

    # Errands.

    def _turn_to(self, errand: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        if self._errand is not None:
            self._errand.cancel()
        self._errand = asyncio.create_task(self._run(errand))
        self._errand.add_done_callback(self._note_end)
        return self._errand

    async def _run(self, errand: Callable[[], Awaitable[None]]) -> None:
        async with self._alone:
            await errand()

    def _note_end(self, errand: asyncio.Task[None]) -> None:
        """No errand fails; one that does is a fault of ours and must not go unseen."""
        error = None if errand.cancelled() else errand.exception()
        if error is not None and not self._shop.broken.done():
            self._shop.broken.set_exception(error)

    async def _serve(self) -> None:
        """Brings the worker up, and again after each failure, until the variant sleeps."""
        while self._life.state != "asleep":
            try:
                await self._start(inspect=True)
                reason = await self.berth.ended()
            except PrunebenchError as error:
                reason = str(error)
            await self._fail(reason)

    async def _keep(self) -> None:
        """The worker is up."""
        await self._fail(await self.berth.ended())
        await self._serve()

    async def _fall_asleep(self) -> None:
        await self._emptied()
        await self.berth.fall_asleep()
        self._enter(self._life.asleep(time.monotonic()))
        self._shop.announce(f"{self.name}: asleep")
        await self.berth.exited()
        await self.berth.take_down()

    async def _drain(self) -> None:
        await self._emptied()
        self._enter(self._life.stopped(time.monotonic()))
        self._shop.announce(f"{self.name}: drained")
        await self.berth.take_down()

    async def _renew(self, entry: VariantEntry, *, goes_on: bool) -> None:
        state = self._life.state
        if state in ("dozing", "draining"):
            await self._emptied()
            ended = self._life.asleep if state == "dozing" else self._life.stopped
            self._enter(ended(time.monotonic()))
        await self.berth.take_down()
        self._shop.registry.renew(self.variant, entry)
        if not goes_on:
            return
        if self._sleeps_by_itself and self._life.state == "queued":
            self._enter(self._life.asleep(time.monotonic()))
        elif not self._sleeps_by_itself:
            if self._life.state == "asleep":
                self._enter(self._life.waking(time.monotonic()))
            await self._serve()

    # Steps of errands.

    async def _start(self, *, inspect: bool) -> None:
        """Returns when the variant has generated a token. Raises PrunebenchError; then no process of it is left."""
        async with self._shop.turn:
            began_s = time.monotonic()
            if self._life.state != "waking":
                self._enter(self._life.starting(began_s))
            self._shop.announce(f"{self.name}: {self._life.state}")
            if inspect:
                await self.berth.inspect()
            await self.berth.come_up()
            self._enter(self._life.ready(time.monotonic()))
            self._shop.announce(f"{self.name}: ready after {format_seconds(time.monotonic() - began_s)}")

    async def _fail(self, reason: str) -> None:
        """Nobody waits for the restart. Returns when it may be tried; in the layout `swap` the variant sleeps then."""
        self._enter(self._life.failed(time.monotonic(), reason))
        self.cut_off()
        delay_s = self._life.delay_s
        self._shop.announce(f"{self.name}: stopped ({reason}); starting again in {format_seconds(delay_s)}")
        self.berth.kill()
        await self.berth.take_down()
        await asyncio.sleep(delay_s)
        if self._sleeps_by_itself:
            self._enter(self._life.asleep(time.monotonic()))

    async def _emptied(self) -> None:
        """Returns when no request is inside; in `timeouts.drain_s` those that are left are cut off."""
        try:
            async with asyncio.timeout(self._shop.fleet.timeouts.drain_s):
                await self.variant.gate.emptied()
        except TimeoutError:
            if self._life.state == "draining":
                self.cut_off()
            self._cut_exchanges()

    @property
    def _sleeps_by_itself(self) -> bool:
        return self._shop.swaps and self.is_ours

    @property
    def _life(self) -> Lifecycle:
        return self.variant.lifecycle

    def _enter(self, life: Lifecycle) -> None:
        """The gate follows the state: open where requests come in or are refused, closed where they wait."""
        self.variant.lifecycle = life
        if life.state in QUEUEING:
            self.variant.gate.close()
        elif life.state in ("ready", "draining"):
            self.variant.gate.open()
        self._shop.stir()
