"""Does the supervisor start one at a time, stop at the first fault, and bring back what dies, and only that?

Engines are entries in a table here: no process is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from supervised import World

from artifacts.errors import CheckpointError, ConfigError, ServingError
from artifacts.fleet import Fleet, VariantEntry
from server import berth, lifecycle, supervisor
from server.engines import Machine
from server.lifecycle import Lifecycle
from server.memory import OVERHEAD_BYTES, Need
from server.registry import Registry
from server.workshop import Workshop, need_of


def test_all_come_up_one_after_the_other_in_the_fleets_order(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        assert world.registry.all_ready

    world = run(use, "a", "b", "c")
    assert [engine.name for engine in world.engines] == ["a", "b", "c"]
    assert world.most_starting == 1
    assert [line.partition(" after")[0] for line in world.said] == [
        *("a: starting", "a: ready", "b: starting", "b: ready", "c: starting", "c: ready")
    ]


def test_as_many_load_together_as_the_fleet_allows(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        assert world.registry.all_ready

    world = run(use, "a", "b", "c", starts_at_once=2)
    assert [engine.name for engine in world.engines] == ["a", "b", "c"] and world.most_starting == 2


def test_a_failure_ends_those_that_load_beside_it(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        world.refuse["a"] = "it wants more memory"
        world.never.add("b")
        with pytest.raises(ServingError, match="'a' could not be started"):
            await world.supervisor.start_all()

    world = run(use, "a", "b", "c", starts_at_once=2)
    assert [(engine.name, engine.stopped) for engine in world.engines] == [("a", True), ("b", True)]


def test_stopping_ends_every_engine_and_every_keeper(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()

    world = run(use, "a", "b")
    assert set(world.states().values()) == {"stopped"}
    assert all(engine.stopped for engine in world.engines)


def test_the_first_that_cannot_start_ends_the_start(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        world.refuse["b"] = "it wants more memory"
        with pytest.raises(ServingError, match=r"'b' could not be started: it wants more memory \(log: .*b\.log\)"):
            await world.supervisor.start_all()
        assert world.states() == {"a": "ready", "b": "starting", "c": "queued"}

    world = run(use, "a", "b", "c")
    assert [(engine.name, engine.killed, engine.stopped) for engine in world.engines] == [
        ("a", False, True),
        ("b", True, True),
    ]


def test_an_engine_that_never_answers_is_given_up(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        world.never.add("a")
        with pytest.raises(ServingError, match="no token within 50 ms of its start"):
            await world.supervisor.start_all()

    world = run(use, "a", start_timeout_s=0.05)
    assert [(engine.killed, engine.stopped) for engine in world.engines] == [(True, True)]


def test_the_dead_come_back_and_the_living_are_left_alone(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        for restarts in (1, 2, 3):
            world.engines[-1 if restarts > 1 else 0].died.set_result("killed")
            await world.until(lambda restarts=restarts: len(world.engines) == 2 + restarts and world.registry.all_ready)
        a, b = world.registry
        assert (a.lifecycle.restarts, b.lifecycle.restarts) == (3, 0)
        assert a.lifecycle.reason is None

    world = run(use, "a", "b")
    assert [engine.name for engine in world.engines] == ["a", "b", "a", "a", "a"]
    assert len([line for line in world.said if line.startswith("a: stopped (killed); starting again in ")]) == 3


def test_a_variant_that_cannot_come_back_waits_with_its_reason_and_then_does(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        world.refuse["a"] = "out of memory"
        world.engines[0].died.set_result("killed")
        await world.until(lambda: len(world.engines) > 4)
        a, b = world.registry
        assert "out of memory" in str(a.lifecycle.reason)
        assert b.lifecycle.state == "ready"
        world.refuse.clear()
        await world.until(lambda: world.registry.all_ready)
        assert a.lifecycle.reason is None
        assert a.lifecycle.restarts >= 3

    run(use, "a", "b")


def test_a_checkpoint_is_looked_at_again_before_each_new_start(
    run: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have replaced or damaged the folder while the engine ran."""
    looked: list[str] = []

    async def check(entry: VariantEntry) -> None:
        looked.append(entry.name)
        if len(looked) == 3:
            raise CheckpointError("model.safetensors is damaged")

    monkeypatch.setattr(berth, "checkpoint_of", check)
    monkeypatch.setattr(supervisor, "checkpoint_of", check)

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        assert looked == ["a", "b"]
        world.engines[1].died.set_result("killed")
        await world.until(lambda: len(looked) == 4 and world.registry.all_ready)

    world = run(use, "a", "b")
    assert looked == ["a", "b", "b", "b"]
    assert [engine.name for engine in world.engines] == ["a", "b", "b"]
    assert any("b: stopped (model.safetensors is damaged)" in line for line in world.said)


def test_stopping_while_a_variant_waits_starts_it_no_more(
    run: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_DELAY_S", 30.0)

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        world.engines[0].died.set_result("killed")
        await world.until(lambda: world.states()["a"] == "backoff")

    world = run(use, "a")
    assert len(world.engines) == 1
    assert world.states() == {"a": "stopped"}


def test_a_second_signal_kills_every_engine(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        world.supervisor.kill_all()

    assert [engine.killed for engine in run(use, "a", "b").engines] == [True, True]


def test_a_socket_left_by_a_killed_engine_is_removed_before_the_next_binds(
    run: Callable[..., World], tmp_path: Path
) -> None:
    (tmp_path / "a.sock").write_text("left over")

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        assert not (tmp_path / "a.sock").exists()

    run(use, "a")


def test_a_fleet_of_folders_cannot_be_reloaded(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        with pytest.raises(ConfigError, match="made of folders; only one that was read from a file can be reloaded"):
            await world.supervisor.reload()

    run(use, "a")


def test_no_orders_are_taken_before_all_have_started(run: Callable[..., World]) -> None:
    async def use(world: World) -> None:
        with pytest.raises(ServingError, match="still starting") as early:
            world.supervisor.order("a", "stop")
        assert early.value.status == 409
        await world.supervisor.start_all()
        assert world.supervisor.order("a", "stop")
        world.registry.draining = True
        with pytest.raises(ServingError, match="shutting down"):
            world.supervisor.order("a", "start")

    run(use, "a")


NEEDS = [
    ({"model": "org/hub"}, {"kv_cache_bytes": 7}, Need("a", 0, 7), "a hub model's weights are not known"),
    ({"model": "org/hub", "kv_cache_bytes": 5}, {"kv_cache_bytes": 7}, Need("a", 0, 5), "an entry's own cache counts"),
    ({"model": "org/hub"}, {}, Need("a", 0, 1 << 30), "a GiB is the fleet's default"),
]


@pytest.mark.parametrize(("entry", "fleet", "need", "why"), NEEDS, ids=[why for *_, why in NEEDS])
def test_need(entry: dict[str, Any], fleet: dict[str, Any], need: Need, why: str) -> None:
    parsed = Fleet.parse({"variants": [{"name": "a", **entry}], **fleet}, "the test's fleet")
    found = need_of(parsed.variants[0], parsed)
    assert found == need, why
    assert found.total_bytes == need.weights_bytes + need.kv_cache_bytes + OVERHEAD_BYTES


MACHINES = [
    ({"model": "org/hub"}, "cpu", True, "a vLLM on a CPU must fit into memory"),
    ({"model": "org/hub"}, "gpu", False, "a GPU's engine refuses by itself"),
    ({"engine": "sim"}, "cpu", False, "a simulator needs next to nothing"),
    ({"url": "http://far:1"}, "cpu", False, "a running server has its memory already"),
]


@pytest.mark.parametrize(("entry", "device", "refused", "why"), MACHINES, ids=[why for *_, why in MACHINES])
def test_who_is_asked_about_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], device: Any, refused: bool, why: str
) -> None:
    monkeypatch.setattr("server.memory.available_memory_bytes", lambda: 0)
    registry = Registry(Fleet.parse({"variants": [{"name": "a", **entry}]}, "the test's fleet"), str(tmp_path))

    async def ask() -> None:
        shop = Workshop(registry, Machine((0, 32), device), tmp_path, str, asyncio.Future(), lambda: None)
        shop.require_memory(registry.fleet.variants, registry.fleet)

    if refused:
        with pytest.raises(ServingError, match="'a' does not fit"):
            asyncio.run(ask())
    else:
        asyncio.run(ask())
    assert next(iter(registry)).lifecycle == Lifecycle(), why
