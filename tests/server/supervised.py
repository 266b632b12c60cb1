"""A supervisor whose engines are entries in a table: no process is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from artifacts.fleet import Fleet
from server import berth, lifecycle
from server.engines import EngineCommand, Machine
from server.pool import UpstreamPool
from server.registry import Registry
from server.supervisor import Supervisor


@dataclass
class Engine:
    """One start of a variant's engine; `died` is set to why it ends."""

    name: str
    died: asyncio.Future[str]
    stopped: bool = False
    killed: bool = False

    async def exited(self) -> str:
        return await asyncio.shield(self.died)

    async def stop(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.stopped = True

    def kill(self) -> None:
        self.killed = True


@dataclass
class World:
    """The fleet under test; `never` lists variants that come up but say nothing, `refuse` those that end at once."""

    registry: Registry
    supervisor: Supervisor
    engines: list[Engine] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    never: set[str] = field(default_factory=set)
    refuse: dict[str, str] = field(default_factory=dict)
    most_starting: int = 0

    async def start_engine(self, command: EngineCommand, log_path: Path) -> Engine:
        assert not [e for e in self.engines if e.name == log_path.stem and not e.stopped], "one at a time"
        engine = Engine(log_path.stem, asyncio.get_running_loop().create_future())
        self.engines.append(engine)
        starting = [v.name for v in self.registry if v.lifecycle.state == "starting"]
        self.most_starting = max(self.most_starting, len(starting))
        if engine.name in self.refuse:
            engine.died.set_result(self.refuse[engine.name])
        return engine

    async def until_ready(self, pool: UpstreamPool, name: str) -> None:
        await asyncio.sleep(0)
        if name in self.never or name in self.refuse:
            await asyncio.Event().wait()

    def states(self) -> dict[str, str]:
        return {variant.name: variant.lifecycle.state for variant in self.registry}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the supervisor tells nobody about its state
                await asyncio.sleep(0.001)


def supervising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., World]:
    """`run(use, names)` supervises simulators of these names, without delays, while `use` runs; then stops them all."""
    monkeypatch.setattr(lifecycle, "FIRST_DELAY_S", 0.001)

    def supervise(
        use: Callable[[World], Awaitable[None]], *names: str, source: Path | None = None, **fleet: Any
    ) -> World:
        async def main() -> World:
            entries = [{"name": name, "engine": "sim"} for name in names]
            registry = Registry(Fleet.parse({"variants": entries, **fleet}, "the test's fleet"), str(tmp_path))
            said: list[str] = []
            supervisor = Supervisor(registry, Machine(None, "cpu"), tmp_path, said.append, source)
            world = World(registry, supervisor, said=said)
            monkeypatch.setattr(berth.WorkerProcess, "start", world.start_engine)
            monkeypatch.setattr(berth, "until_ready", world.until_ready)
            try:
                await use(world)
            finally:
                await world.supervisor.stop_all()
            return world

        return asyncio.run(main())

    return supervise
