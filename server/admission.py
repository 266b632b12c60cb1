"""May a request use its variant now, must it wait, or is it refused?

A gate lets so many requests in at a time; the rest wait in the order they came, as many as agreed and as long as
agreed. A closed gate (the variant sleeps, or wakes) lets nobody in and lets them wait all the same. A client that goes
away leaves the queue at once; so does everybody when the variant will not take them after all.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from artifacts.errors import ServingError
from server import faults
from server.client import Queuing


class LeftQueue(Exception):
    """The client went away while its request waited."""


class _Place:
    """One request in the queue; ends like an upstream when its client goes away."""

    def __init__(self) -> None:
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.since_s = time.monotonic()

    def pause(self) -> None:
        """Nothing flows yet."""

    def resume(self) -> None:
        """Nothing flows yet."""

    def abort(self) -> None:
        self.leave(LeftQueue())

    def leave(self, why: Exception) -> None:
        if not self.turn.done():
            self.turn.set_exception(why)

    def admit(self) -> bool:
        """False if its request no longer waits."""
        if self.turn.done():
            return False
        self.turn.set_result(None)
        return True

    @property
    def admitted(self) -> bool:
        return self.turn.done() and not self.turn.cancelled() and self.turn.exception() is None


class Gate:
    """The way to one variant: `capacity` requests inside (None: any number), `max_queued` in front of it.

    `on_wait` is called when a request begins to wait before the closed gate.
    """

    def __init__(self, name: str, capacity: int | None, max_queued: int) -> None:
        self._name = name
        self._queue: deque[_Place] = deque()
        self.capacity = capacity
        self.max_queued = max_queued
        self.in_flight = 0
        self.is_open = True
        self.on_wait: Callable[[], None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        return sum(not place.turn.done() for place in self._queue)

    @property
    def waiting_since_s(self) -> float | None:
        """When the oldest request in the queue came, on the monotonic clock."""
        return next((place.since_s for place in self._queue if not place.turn.done()), None)

    def open(self) -> None:
        self.is_open = True
        self._let_in()

    def close(self) -> None:
        """Whoever is inside stays; nobody else comes in until `open`."""
        self.is_open = False

    def resize(self, capacity: int | None, max_queued: int) -> None:
        """Who is inside or in the queue already stays there."""
        self.capacity, self.max_queued = capacity, max_queued
        self._let_in()

    def dismiss(self, refusal: Callable[[], ServingError]) -> None:
        """Everybody in the queue is refused; whoever is inside stays."""
        for place in self._queue:
            place.leave(refusal())
        self._queue.clear()

    async def emptied(self) -> None:
        """Returns when nobody is inside; an open gate goes on letting in those who wait."""
        while self.in_flight:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def enter_at_once(self) -> bool:
        """Whether there was nothing to wait for; then `leave` must follow."""
        free = self._has_room and not (self._queue and self.queued)
        self.in_flight += free
        return free

    async def enter(self, client: Queuing, patience_s: float) -> float:
        """Returns inside, with the seconds waited; `leave` must follow.

        Raises ServingError (429 queue full, 503 waited too long or the variant will not come) and LeftQueue.
        """
        if self.enter_at_once():
            return 0.0
        if self.queued >= self.max_queued:
            raise faults.queue_full(self._name, self.max_queued)
        place = _Place()
        self._queue.append(place)
        if self.on_wait is not None and not self.is_open:
            self.on_wait()
        client.attach(place)
        inside = False
        try:
            async with asyncio.timeout(patience_s):
                await place.turn
                inside = True
        except TimeoutError as error:
            raise faults.waited_too_long(self._name, patience_s) from error
        finally:
            client.detach()
            if place in self._queue:
                self._queue.remove(place)
            if place.admitted and not inside:
                self.leave()
        return time.monotonic() - place.since_s

    def leave(self) -> None:
        self.in_flight -= 1
        self._let_in()
        if self._emptied is not None and not self.in_flight:
            self._emptied.set_result(None)
            self._emptied = None

    @property
    def _has_room(self) -> bool:
        return self.is_open and (self.capacity is None or self.in_flight < self.capacity)

    def _let_in(self) -> None:
        while self._queue and self._has_room:
            self.in_flight += self._queue.popleft().admit()
