"""Does a closed gate keep its queue, does a dismissed queue hear of it, and does the last one out say so?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from artifacts.errors import ServingError
from server import faults
from server.admission import Gate, LeftQueue
from server.client import Upstream


@dataclass
class Client:
    """A client that can only go away."""

    upstream: Upstream | None = None

    def attach(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def detach(self) -> None:
        self.upstream = None


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(main())


async def queued(gate: Gate, number: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(gate.enter(Client(), 5)) for _ in range(number)]
    await asyncio.sleep(0)
    assert gate.queued == number
    return tasks


def test_a_closed_gate_lets_wait_and_an_open_one_in() -> None:
    async def test() -> None:
        gate = Gate("a", None, 10)
        told: list[int] = []
        gate.on_wait = lambda: told.append(gate.queued)
        gate.close()
        assert gate.waiting_since_s is None
        waiting = await queued(gate, 3)
        assert told == [1, 2, 3]
        assert (gate.in_flight, gate.waiting_since_s is not None) == (0, True)
        gate.open()
        await asyncio.gather(*waiting)
        assert (gate.in_flight, gate.queued, gate.waiting_since_s) == (3, 0, None)

    run(test)


def test_a_queue_for_want_of_room_wakes_nobody() -> None:
    async def test() -> None:
        gate = Gate("a", 1, 10)
        gate.on_wait = lambda: pytest.fail("the gate is open")
        await gate.enter(Client(), 5)
        (waiting,) = await queued(gate, 1)
        gate.leave()
        await waiting

    run(test)


def test_a_dismissed_queue_gets_the_refusal_and_no_place() -> None:
    async def test() -> None:
        gate = Gate("a", 1, 10)
        await gate.enter(Client(), 5)
        waiting = await queued(gate, 3)
        gate.dismiss(lambda: faults.not_ready("a", "stopped", None))
        for task in waiting:
            with pytest.raises(ServingError, match="not ready: stopped"):
                await task
        assert (gate.in_flight, gate.queued) == (1, 0)
        gate.leave()
        assert gate.in_flight == 0

    run(test)


def test_emptied_waits_for_everybody_inside_and_those_an_open_gate_still_lets_in() -> None:
    async def test() -> None:
        gate = Gate("a", 2, 10)
        await gate.emptied()
        for _ in range(2):
            await gate.enter(Client(), 5)
        (waiting,) = await queued(gate, 1)
        watchers = [asyncio.ensure_future(gate.emptied()) for _ in range(2)]
        for _ in range(2):
            gate.leave()
            await asyncio.sleep(0)
            assert not any(watcher.done() for watcher in watchers)
        await waiting
        gate.leave()
        await asyncio.gather(*watchers)

    run(test)


def test_one_watcher_that_gives_up_does_not_take_the_others_along() -> None:
    async def test() -> None:
        gate = Gate("a", None, 10)
        await gate.enter(Client(), 5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await gate.emptied()
        watcher = asyncio.ensure_future(gate.emptied())
        await asyncio.sleep(0)
        gate.leave()
        await watcher

    run(test)


def test_more_room_after_a_reload_is_used_at_once() -> None:
    async def test() -> None:
        gate = Gate("a", 1, 10)
        await gate.enter(Client(), 5)
        waiting = await queued(gate, 2)
        gate.resize(3, 0)
        await asyncio.gather(*waiting)
        assert gate.in_flight == 3
        with pytest.raises(ServingError, match="0 requests wait"):
            await gate.enter(Client(), 5)

    run(test)


def test_a_client_that_leaves_a_closed_gate_leaves_its_place() -> None:
    async def test() -> None:
        gate = Gate("a", None, 1)
        gate.close()
        client = Client()
        waiting = asyncio.ensure_future(gate.enter(client, 5))
        await asyncio.sleep(0)
        assert client.upstream is not None
        client.upstream.abort()
        with pytest.raises(LeftQueue):
            await waiting
        assert (gate.queued, gate.waiting_since_s) == (0, None)

    run(test)
