"""May a request use its variant now, must it wait, or is it refused?

A gate lets so many requests in at a time; the rest wait in the order they came, as many as agreed and as long as
agreed. A closed gate (the variant sleeps, or wakes) lets nobody in and lets them wait all the same. A client that goes
away leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from server import faults
from server.client_side import Client


class LeftQueue(Exception):
    """The client went away while its request waited."""


class _Place:
    """One request in the queue; ends like an upstream when its client goes away."""

    def __init__(self) -> None:
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pause(self) -> None:
        """Nothing flows yet."""

    def resume(self) -> None:
        """Nothing flows yet."""

    def abort(self) -> None:
        if not self.turn.done():
            self.turn.set_exception(LeftQueue())

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
    """The way to one variant: `capacity` requests inside (None: any number), `max_queued` in front of it."""

    def __init__(self, name: str, capacity: int | None, max_queued: int) -> None:
        self._name = name
        self._queue: deque[_Place] = deque()
        self.capacity = capacity
        self.max_queued = max_queued
        self.in_flight = 0
        self.is_open = True

    @property
    def queued(self) -> int:
        return sum(not place.turn.done() for place in self._queue)

    def open(self) -> None:
        self.is_open = True
        self._let_in()

    def close(self) -> None:
        """Whoever is inside stays; nobody else comes in until `open`."""
        self.is_open = False

    async def enter(self, client: Client, patience_s: float) -> float:
        """Returns inside, with the seconds waited; `leave` must follow.

        Raises ServingError (429 queue full, 503 waited too long), LeftQueue.
        """
        if self._has_room and not self.queued:
            self.in_flight += 1
            return 0.0
        if self.queued >= self.max_queued:
            raise faults.queue_full(self._name, self.max_queued)
        place = _Place()
        self._queue.append(place)
        client.attach(place)
        came_s = time.perf_counter()
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
        return time.perf_counter() - came_s

    def leave(self) -> None:
        self.in_flight -= 1
        self._let_in()

    @property
    def _has_room(self) -> bool:
        return self.is_open and (self.capacity is None or self.in_flight < self.capacity)

    def _let_in(self) -> None:
        while self._queue and self._has_room:
            self.in_flight += self._queue.popleft().admit()
