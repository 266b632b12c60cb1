"""Is everything under way looked at when it is due, in time, and nothing that has left?"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from server.watch import TOGETHER_S, Watch


@dataclass(eq=False)
class Looked:
    """Notes when it was looked at; `again_s` later it wants to be looked at again, `then` happens at each look."""

    again_s: float = math.inf
    then: Callable[[], None] = lambda: None
    at_s: list[float] = field(default_factory=list)

    def look(self, now_s: float) -> float:
        self.at_s.append(now_s)
        self.then()
        return now_s + self.again_s


def watching(use: Callable[[Watch], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await use(Watch())

    asyncio.run(main())


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110 - the watch is what is tested
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("order", [(0.02, 0.6, 0.3), (0.6, 0.3, 0.02), (0.3, 0.02, 0.6)])
def test_nobody_is_looked_at_late_or_much_too_early(order: tuple[float, ...]) -> None:
    async def use(watch: Watch) -> None:
        began_s = time.monotonic()
        watched = {after_s: Looked() for after_s in order}
        for after_s, one in watched.items():
            watch.add(one, began_s + after_s)
        await until(lambda: all(one.at_s for one in watched.values()))
        for after_s, one in watched.items():
            assert one.at_s[0] - began_s >= after_s - TOGETHER_S
        firsts = [watched[after_s].at_s[0] for after_s in sorted(order)]
        assert firsts == sorted(firsts)
        assert len(set(firsts)) == len(firsts)

    watching(use)


def test_those_who_are_due_together_are_looked_at_in_one_callback() -> None:
    async def use(watch: Watch) -> None:
        due_s = time.monotonic() + 0.05
        watched = [Looked() for _ in range(50)]
        for index, one in enumerate(watched):
            watch.add(one, due_s + index / 50 * TOGETHER_S / 2)
        await until(lambda: watched[-1].at_s)
        assert {one.at_s[0] for one in watched} == {watched[0].at_s[0]}

    watching(use)


def test_one_is_looked_at_again_and_again_until_it_leaves() -> None:
    async def use(watch: Watch) -> None:
        one = Looked(again_s=0.01)
        watch.add(one, time.monotonic())
        await until(lambda: len(one.at_s) == 5)
        watch.drop(one)
        watch.drop(one)
        await asyncio.sleep(0.05)
        assert (len(one.at_s), len(watch)) == (5, 0)

    watching(use)


def test_a_look_may_end_itself_and_another_and_let_a_third_begin() -> None:
    async def use(watch: Watch) -> None:
        now_s = time.monotonic()
        second, third = Looked(), Looked()

        def end() -> None:
            watch.drop(first)
            watch.drop(second)
            watch.add(third, now_s)

        first = Looked(then=end)
        watch.add(first, now_s)
        watch.add(second, now_s)
        await until(lambda: third.at_s)
        assert (len(first.at_s), second.at_s, len(watch)) == (1, [], 1)

    watching(use)


def test_an_empty_watch_waits_for_nothing() -> None:
    """A server that nobody asks sleeps."""

    async def use(watch: Watch) -> None:
        one = Looked(then=lambda: watch.drop(one))
        watch.add(one, time.monotonic())
        await until(lambda: one.at_s)
        armed: list[float] = []
        loop = asyncio.get_running_loop()
        later = loop.call_later
        loop.call_later = lambda delay_s, *a, **k: armed.append(delay_s) or later(delay_s, *a, **k)  # type: ignore[method-assign,func-returns-value]
        watch.add(one, time.monotonic() + 3600)
        for _ in range(100):
            other = Looked()
            watch.add(other, time.monotonic() + 3600)
            watch.drop(other)
        assert len(armed) == 1, "one timer, however many come and go"

    watching(use)
