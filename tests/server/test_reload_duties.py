"""What does the supervisor make of a new fleet file? No process is started."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from supervised import World

from artifacts.errors import ConfigError, ServingError
from artifacts.fleet import Fleet, VariantEntry
from server.workshop import Workshop

Run = Callable[..., World]


def write(path: Path, *entries: dict[str, Any], **fleet: Any) -> Path:
    Fleet.parse({"variants": [{"engine": "sim", **entry} for entry in entries], **fleet}, "the test's fleet").save(path)
    return path


def test_what_is_added_must_fit_beside_what_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def require(self: Workshop, entries: Iterable[VariantEntry], fleet: Fleet) -> None:
        asked.append([entry.name for entry in entries])
        if "huge" in asked[-1]:
            raise ServingError("it does not fit")

    monkeypatch.setattr(Workshop, "require_memory", require)

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        write(tmp_path / "fleet.json", {"name": "a"}, {"name": "huge"}, aliases={"x": "a"})
        with pytest.raises(ServingError, match="does not fit"):
            await world.supervisor.reload()
        assert world.registry.names == ("a",)

    run(use, "a", source=tmp_path / "fleet.json")
    assert asked == [["a"], ["huge"]]


def test_an_entry_that_says_the_same_otherwise_is_taken_over(run: Run, tmp_path: Path) -> None:
    """The engine runs on with one GiB; started again under the new file it must get the same, not the fleet's two."""

    async def use(world: World) -> None:
        await world.supervisor.start_all()
        write(tmp_path / "fleet.json", {"name": "a", "kv_cache_bytes": 1 << 30}, kv_cache_bytes=2 << 30)
        assert (await world.supervisor.reload()).names["unaffected"] == ["a"]
        assert next(iter(world.registry)).entry.kv_cache_bytes == 1 << 30
        assert len(world.engines) == 1

    run(use, "a", source=tmp_path / "fleet.json")


def test_the_files_order_becomes_the_lists(run: Run, tmp_path: Path) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        write(tmp_path / "fleet.json", {"name": "c"}, {"name": "b"}, {"name": "a"}, aliases={"x": {"a": 1, "c": 3}})
        await world.supervisor.reload()
        assert world.registry.names == ("c", "b", "a", "x")
        chosen = [world.registry.resolve("x") for _ in range(4)]
        assert sorted(variant.name for variant in chosen if variant) == ["a", "c", "c", "c"]
        await world.until(lambda: world.registry.all_ready)

    world = run(use, "a", "b", source=tmp_path / "fleet.json")
    assert [engine.name for engine in world.engines] == ["a", "b", "c"]


def test_a_name_that_is_still_leaving_cannot_come_back_yet(run: Run, tmp_path: Path) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        a, b = world.registry
        a.gate.in_flight += 1
        write(tmp_path / "fleet.json", {"name": "b"})
        await world.supervisor.reload()
        write(tmp_path / "fleet.json", {"name": "a"}, {"name": "b"})
        with pytest.raises(ConfigError, match="a has yet to finish its last requests"):
            await world.supervisor.reload()
        with pytest.raises(ServingError, match="no variant 'a'"):
            world.supervisor.order("a", "stop")
        a.gate.leave()
        await world.until(lambda: world.registry.names == ("b",))
        assert (await world.supervisor.reload()).names["added"] == ["a"]
        await world.until(lambda: world.registry.all_ready)
        assert b.lifecycle.restarts == 0

    world = run(use, "a", "b", source=tmp_path / "fleet.json")
    assert [(engine.name, engine.stopped) for engine in world.engines] == [("a", True), ("b", True), ("a", True)]


def test_a_server_that_ends_while_a_variant_leaves_ends_that_one_too(run: Run, tmp_path: Path) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        next(iter(world.registry)).gate.in_flight += 1
        write(tmp_path / "fleet.json", {"name": "b"})
        await world.supervisor.reload()

    assert all(engine.stopped for engine in run(use, "a", "b", source=tmp_path / "fleet.json").engines)


def test_more_room_counts_at_once(run: Run, tmp_path: Path) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        limits = {"max_queued": 5, "max_in_flight_per_variant": 2}
        write(tmp_path / "fleet.json", {"name": "a"}, {"name": "b", "max_in_flight": 3}, limits=limits)
        await world.supervisor.reload()
        gates = [variant.gate for variant in world.registry]
        assert [(gate.capacity, gate.max_queued) for gate in gates] == [(2, 5), (3, 5)]

    run(use, "a", "b", source=tmp_path / "fleet.json")


def test_a_changed_variant_is_reached_where_the_new_file_says(run: Run, tmp_path: Path) -> None:
    async def use(world: World) -> None:
        await world.supervisor.start_all()
        write(tmp_path / "fleet.json", {"name": "a", "url": ["http://far:1", "http://far:2"]})
        assert (await world.supervisor.reload()).names["changed"] == ["a"]
        await world.until(lambda: world.registry.all_ready and world.engines[0].stopped)
        (variant,) = world.registry
        assert [replica.pool.address.authority for replica in variant.replicas] == ["far:1", "far:2"]

    run(use, "a", source=tmp_path / "fleet.json")
