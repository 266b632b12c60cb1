"""Where does one variant's worker live: how does it come up, and when is nothing of it left?

A berth holds one process at a time. What decides when it comes and goes is its keeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from artifacts.errors import ServingError
from artifacts.fleet import VariantEntry
from artifacts.units import format_seconds
from server.checkpoint import Checkpoint, checked, local_folder, require_plugin
from server.engines import EngineCommand, EngineJob, engine_command
from server.liveness import until_silent
from server.pool import UpstreamPool
from server.registry import ServedVariant
from server.replica_watch import first_token, watch
from server.sleeping import Sleep, way_to_sleep
from server.worker import WorkerProcess, until_ready
from server.workshop import Workshop


class Berth:
    """The worker of `variant`, or none. A variant whose servers are not ours never has one."""

    def __init__(self, variant: ServedVariant, shop: Workshop) -> None:
        self._variant = variant
        self._shop = shop
        self._worker: WorkerProcess | None = None

    @property
    def pool(self) -> UpstreamPool:
        return self._variant.pool

    @property
    def has_worker(self) -> bool:
        return self._worker is not None

    async def inspect(self) -> None:
        """Raises PrunebenchError if what would be loaded is damaged, or does not fit into the memory that is free.

        A worker that sleeps has it loaded already.
        """
        if not self.has_worker:
            self._variant.checkpoint = await checkpoint_of(self._variant.entry)
            self._shop.require_memory([self._variant.entry], self._shop.fleet)

    async def come_up(self) -> None:
        """Returns when the variant has generated a token. Raises PrunebenchError; then no process of it is left."""
        if self._variant.entry.urls:
            await self._in_time(first_token(self._variant))
            return
        try:
            await self._in_time(self._awake_and_ready())
        except BaseException:
            self.kill()
            await self.take_down()
            raise

    async def fall_asleep(self) -> None:
        """Called when no request is inside."""
        await self._way.fall_asleep(self)

    async def ended(self) -> str:
        """Waits until the worker has ended, or does not answer any more; why, in one sentence."""
        if self._variant.entry.urls:
            await watch(self._variant, self._shop.announce)
        if self._worker is None:
            for_ever: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            return await for_ever
        patience_s = self._shop.fleet.timeouts.health_s
        return await _first_of(self._worker.exited(), until_silent(self.pool, patience_s))

    async def exited(self) -> None:
        """Waits until the worker, if there is one, has ended by itself."""
        if self._worker is not None:
            await self._worker.exited()

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    async def bring_up(self) -> None:
        await self.take_down()
        self._worker = await WorkerProcess.start(self._command(), self._log_path)

    async def take_down(self) -> None:
        """No process of the variant is left, and no connection to one waits for use."""
        for replica in self._variant.replicas:
            replica.pool.close()
        if self._worker is not None:
            await self._worker.stop()
            self._worker = None
            self._shop.stir()

    @property
    def _way(self) -> Sleep:
        return way_to_sleep(self._variant.entry, self._shop.fleet, self._shop.machine)

    @property
    def _log_path(self) -> Path:
        return self._shop.log_dir / f"{self._variant.name}.log"

    def _command(self) -> EngineCommand:
        """Also clears the socket's path: a killed engine leaves its socket, and the next one refuses to bind there."""
        variant = self._variant
        socket_path = str(self.pool.address.socket_path)
        Path(socket_path).unlink(missing_ok=True)
        fingerprint = variant.checkpoint.fingerprint if variant.checkpoint else None
        return engine_command(EngineJob(variant.entry, self._shop.fleet, socket_path, fingerprint), self._shop.machine)

    async def _in_time(self, ready: Awaitable[None]) -> None:
        limit_s = self._shop.fleet.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await ready
        except TimeoutError as error:
            raise ServingError(
                f"The model {self._variant.name!r} generated no token within {format_seconds(limit_s)} of its start. "
                "Raise start_timeout_s, or see its log."
            ) from error

    async def _awake_and_ready(self) -> None:
        """Raises ServingError if the engine ends, or refuses, before it has generated a token."""
        await self._way.wake(self)
        assert self._worker is not None
        died = await _first_of(self._worker.exited(), _nothing_after(until_ready(self.pool, self._variant.name)))
        if died:
            name = self._variant.name
            raise ServingError(f"The model {name!r} could not be started: {died} (log: {self._log_path}).")


async def checkpoint_of(entry: VariantEntry) -> Checkpoint | None:
    """None for what is not a local folder. Raises CheckpointError, ConfigError."""
    folder = local_folder(entry.model) if entry.model is not None else None
    if folder is None:
        return None
    if entry.engine == "vllm":
        require_plugin(folder)
    return await asyncio.to_thread(checked, folder)


async def _first_of(first: Awaitable[str], second: Awaitable[str]) -> str:
    """The result of whichever ends first; the other is cancelled."""
    tasks = [asyncio.ensure_future(first), asyncio.ensure_future(second)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()


async def _nothing_after(ready: Awaitable[None]) -> str:
    await ready
    return ""
