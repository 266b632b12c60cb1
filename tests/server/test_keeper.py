"""Does a keeper end up where it was told to go, whatever it was doing and whatever happens to its worker meanwhile?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from supervised import World

from artifacts.errors import ServingError
from artifacts.fleet import Fleet, VariantEntry
from server import berth, memory, sleeping
from server.engines import Machine
from server.keeper import Keeper
from server.memory import OVERHEAD_BYTES
from server.orders import ORDERS
from server.registry import Registry
from server.sleeping import SleepInPlace
from server.workshop import Workshop

Run = Callable[..., World]


def living(world: World) -> list[str]:
    return [engine.name for engine in world.engines if not engine.stopped]


def test_a_stop_while_a_variant_starts_leaves_no_process(run: Run) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        world.supervisor.order("a", "stop")
        world.never.add("a")
        world.supervisor.order("a", "start")
        assert world.states() == {"a": "queued"}
        await world.until(lambda: len(world.engines) == 2)
        world.supervisor.order("a", "stop")
        assert world.states() == {"a": "stopped"}
        await world.until(lambda: living(world) == [])
        assert world.engines[1].killed

    run(use, "a")


def test_a_start_after_a_failure_does_not_wait(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        monkeypatch.setattr("server.lifecycle.FIRST_DELAY_S", 60)
        world.engines[0].died.set_result("killed")
        await world.until(lambda: world.states() == {"a": "backoff"})
        assert world.supervisor.order("a", "start")
        await world.until(lambda: world.states() == {"a": "ready"})
        assert next(iter(world.registry)).lifecycle.restarts == 1

    run(use, "a")


def test_memory_is_asked_for_before_every_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    full: list[bool] = []

    def require(self: Workshop, entries: Iterable[VariantEntry], fleet: Fleet) -> None:
        asked.append([entry.name for entry in entries])
        if full and full.pop():
            raise ServingError("it does not fit")

    monkeypatch.setattr(Workshop, "require_memory", require)

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        assert asked == [["a", "b"]]
        full.append(True)
        world.engines[0].died.set_result("killed")
        await world.until(lambda: len(asked) == 3 and world.registry.all_ready)
        world.supervisor.order("b", "sleep")
        await world.until(lambda: world.states()["b"] == "asleep")
        world.supervisor.order("b", "wake")
        await world.until(lambda: world.states()["b"] == "ready")

    world = run(use, "a", "b")
    assert asked == [["a", "b"], ["a"], ["a"], ["b"]]
    assert any("a: stopped (it does not fit)" in line for line in world.said)


SIZES = [
    ("resident", 1, 3, "all at once"),
    ("swap", 1, 1, "the largest alone"),
    ("swap", 2, 2, "the two largest"),
]


@pytest.mark.parametrize(("layout", "awake", "counted", "why"), SIZES, ids=[why for *_, why in SIZES])
def test_as_many_must_fit_as_may_be_awake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, awake: int, counted: int, why: str
) -> None:
    sizes = {"small": 10, "large": 1000, "middle": 100}
    entries = [{"name": name, "model": "org/x", "kv_cache_bytes": size} for name, size in sizes.items()]
    fleet = Fleet.parse({"variants": entries, "layout": layout, "swap": {"awake": awake}}, "the test's fleet")
    needed = sum(sorted(sizes.values(), reverse=True)[:counted]) + counted * OVERHEAD_BYTES

    async def ask(available_bytes: int) -> None:
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: available_bytes)
        registry = Registry(fleet, str(tmp_path))
        shop = Workshop(registry, Machine((0, 32), "cpu"), tmp_path, str, asyncio.Future(), lambda: None)
        shop.require_memory(fleet.variants, fleet)

    asyncio.run(ask(needed))
    with pytest.raises(ServingError, match="does not fit"):
        asyncio.run(ask(needed - 1))


def in_place(monkeypatch: pytest.MonkeyPatch, refused: set[str]) -> list[str]:
    """Workers sleep as vLLM does on a GPU; the paths that they are asked for, of which `refused` fail."""
    asked: list[str] = []

    async def fetch(pool: object, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        asked.append(path)
        return (500 if path in refused else 200), b""

    monkeypatch.setattr(sleeping, "fetch", fetch)
    monkeypatch.setattr(berth, "way_to_sleep", lambda *anything: SleepInPlace(1))
    return asked


async def put_to_sleep(world: World) -> None:
    await world.supervisor.start_all()
    world.supervisor.order("a", "sleep")
    await world.until(lambda: world.states()["a"] == "asleep")


def test_a_worker_that_sleeps_in_place_is_the_same_when_it_wakes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = in_place(monkeypatch, set())

    async def use(world: World) -> None:
        await put_to_sleep(world)
        assert living(world) == ["a"]
        monkeypatch.setattr(berth, "checkpoint_of", lambda entry: pytest.fail("it has it loaded already"))
        world.supervisor.order("a", "wake")
        await world.until(lambda: world.states()["a"] == "ready")
        assert len(world.engines) == 1

    run(use, "a")
    assert asked == ["/sleep?level=1", "/wake_up"]


def test_a_worker_that_dies_in_its_sleep_starts_anew_when_it_is_woken(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place(monkeypatch, set())

    async def use(world: World) -> None:
        await put_to_sleep(world)
        world.engines[0].died.set_result("killed")
        await world.until(lambda: world.engines[0].stopped)
        assert world.states() == {"a": "asleep"}
        world.supervisor.order("a", "wake")
        await world.until(lambda: world.states()["a"] == "ready")

    assert len(run(use, "a").engines) == 2


def test_a_worker_that_will_not_wake_is_replaced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place(monkeypatch, {"/wake_up"})

    async def use(world: World) -> None:
        await put_to_sleep(world)
        world.supervisor.order("a", "wake")
        await world.until(lambda: world.states()["a"] == "ready")
        assert [engine.stopped for engine in world.engines] == [True, False]

    assert any("answered 500 to POST /wake_up" in line for line in run(use, "a").said)


def test_a_worker_that_will_not_sleep_is_stopped_instead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place(monkeypatch, {"/sleep?level=1"})

    async def use(world: World) -> None:
        await put_to_sleep(world)
        assert living(world) == []

    run(use, "a")


def test_an_error_that_nobody_expects_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        monkeypatch.setattr(berth, "checkpoint_of", _broken)
        world.engines[0].died.set_result("killed")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(world.supervisor.broken, 5)

    run(use, "a")


async def _broken(entry: VariantEntry) -> None:
    raise ZeroDivisionError


def test_the_next_errand_begins_when_the_last_has_tidied_up(tmp_path: Path) -> None:
    happened: list[str] = []

    async def slow_to_tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            happened.append("tidied up")

    async def note(what: str) -> None:
        happened.append(what)

    async def main() -> None:
        registry = Registry(Fleet.parse({"variants": [{"name": "a", "engine": "sim"}]}, "the test's fleet"), "/run")
        shop = Workshop(registry, Machine(None, "cpu"), tmp_path, str, asyncio.Future(), lambda: None)
        keeper = Keeper(next(iter(registry)), shop)
        keeper._turn_to(slow_to_tidy)
        await asyncio.sleep(0)
        keeper._turn_to(lambda: note("called off before it began"))
        await asyncio.wait([keeper._turn_to(lambda: note("begun"))])

    asyncio.run(main())
    assert happened == ["tidied up", "begun"]


@pytest.mark.parametrize("layout", ["resident", "swap"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_ordered_and_whoever_dies_one_process_at_most_is_left_and_all_can_serve_again(
    run: Run, seed: int, layout: str
) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        await _storm(world, random.Random(seed))
        world.refuse.clear()
        for name in "abc":
            await world.until(lambda name=name: world.states()[name] not in ("dozing", "draining"))
            if world.states()[name] == "stopped":
                world.supervisor.order(name, "start")
        await world.until(lambda: world.registry.all_ready)
        for name in "abc":
            await world.until(lambda name=name: living(world).count(name) <= 1)
        assert not world.supervisor.broken.done()

    world = run(use, "a", "b", "c", layout=layout, swap={"awake": 2, "min_awake_s": 0})
    assert living(world) == []


async def _storm(world: World, chance: random.Random) -> None:
    for _ in range(150):
        name = chance.choice("abc")
        act = chance.random()
        if act < 0.7:
            _tell(world, name, chance.choice(ORDERS))
        elif act < 0.8:
            (world.refuse.pop(name, None) if name in world.refuse else world.refuse.update({name: "no"}))
        else:
            _kill_one(world, chance)
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)


def _tell(world: World, name: str, order: Any) -> None:
    try:
        world.supervisor.order(name, order)
    except ServingError as error:
        assert error.status == 409


def _kill_one(world: World, chance: random.Random) -> None:
    alive = [engine for engine in world.engines if not engine.stopped and not engine.died.done()]
    if alive:
        chance.choice(alive).died.set_result("killed")
