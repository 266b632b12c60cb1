"""Who starts the workers, watches them and brings them back?

Starts are serial: two engines that load at the same time measure each other's memory. A start that fails at first is
an error of the whole server, because a fleet that was never complete should be noticed; a worker that dies later costs
its own variant only, which waits and is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from artifacts.errors import PrunebenchError, ServingError
from artifacts.fleet import Fleet
from artifacts.units import format_seconds
from server import memory
from server.checkpoint import checked, local_folder, require_plugin, weights_bytes
from server.engines import EngineCommand, EngineJob, Machine, engine_command
from server.registry import Registry, ServedVariant
from server.replica_watch import first_token, watch
from server.worker import WorkerProcess, until_ready

Announce = Callable[[str], None]


class Supervisor:
    """The workers of one registry. Logs go to `log_dir`, one file per variant.

    `broken` carries the error that ended the watch over a worker; nobody restarts that worker any more.
    """

    def __init__(self, registry: Registry, machine: Machine, log_dir: Path, announce: Announce) -> None:
        self._registry = registry
        self._fleet = registry.fleet
        self._machine = machine
        self._log_dir = log_dir
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()
        self._workers: dict[str, WorkerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start_all(self) -> None:
        """Checks every variant, then starts one after the other. Raises PrunebenchError at the first that fails."""
        for variant in self._registry:
            await self._check(variant)
        self._require_memory()
        for variant in self._registry:
            await self._start(variant, check=False)
            kept = watch(variant, self._announce) if variant.entry.urls else self._keep(variant)
            keeper = asyncio.create_task(kept)
            keeper.add_done_callback(self._note_end)
            self._keepers.append(keeper)

    def _note_end(self, keeper: asyncio.Task[None]) -> None:
        """A keeper ends only when it is cancelled; anything else is a fault of ours and must not go unseen."""
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None and not self.broken.done():
            self.broken.set_exception(error)

    async def stop_all(self) -> None:
        """Ends all workers together; none is left when this returns."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for variant in self._registry:
            variant.lifecycle = variant.lifecycle.stopped(time.monotonic())
            for replica in variant.replicas:
                replica.pool.close()
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def kill_all(self) -> None:
        """Shortens a `stop_all` that is under way."""
        for worker in self._workers.values():
            worker.kill()

    async def _check(self, variant: ServedVariant) -> None:
        entry = variant.entry
        folder = local_folder(entry.model) if entry.model is not None else None
        if folder is not None:
            if entry.engine == "vllm":
                require_plugin(folder)
            variant.checkpoint = await asyncio.to_thread(checked, folder)

    def _require_memory(self) -> None:
        if self._machine.device == "cpu":
            needs = [need_of(v, self._fleet) for v in self._registry if v.entry.engine == "vllm" and not v.entry.urls]
            memory.require_fit(needs, memory.available_memory_bytes())

    async def _start(self, variant: ServedVariant, *, check: bool) -> None:
        """Returns when the variant has generated a token. Raises PrunebenchError; then no process of it is left."""
        async with self._one_at_a_time:
            began_s = time.monotonic()
            variant.lifecycle = variant.lifecycle.starting(began_s)
            self._announce(f"{variant.name}: starting")
            if check:
                await self._check(variant)
            await self._bring_up(variant)
            variant.lifecycle = variant.lifecycle.ready(time.monotonic())
            self._announce(f"{variant.name}: ready after {format_seconds(time.monotonic() - began_s)}")

    async def _bring_up(self, variant: ServedVariant) -> None:
        if variant.entry.urls:
            await self._in_time(variant, first_token(variant))
            return
        log_path = self._log_dir / f"{variant.name}.log"
        worker = await WorkerProcess.start(self._command(variant), log_path)
        self._workers[variant.name] = worker
        try:
            await self._in_time(variant, _ready_or_exited(variant, worker, log_path))
        except BaseException:
            worker.kill()
            await worker.stop()
            raise

    def _command(self, variant: ServedVariant) -> EngineCommand:
        """Also clears the socket's path: a killed engine leaves its socket, and the next one refuses to bind there."""
        socket_path = str(variant.pool.address.socket_path)
        Path(socket_path).unlink(missing_ok=True)
        fingerprint = variant.checkpoint.fingerprint if variant.checkpoint else None
        return engine_command(EngineJob(variant.entry, self._fleet, socket_path, fingerprint), self._machine)

    async def _in_time(self, variant: ServedVariant, ready: Awaitable[None]) -> None:
        limit_s = self._fleet.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await ready
        except TimeoutError as error:
            raise ServingError(
                f"The model {variant.name!r} generated no token within {format_seconds(limit_s)} of its start. Raise "
                "start_timeout_s, or see its log."
            ) from error

    async def _keep(self, variant: ServedVariant) -> None:
        while True:
            reason = await self._workers[variant.name].exited()
            variant.pool.close()
            await self._revive(variant, reason)

    async def _revive(self, variant: ServedVariant, reason: str) -> None:
        while reason:
            variant.lifecycle = variant.lifecycle.failed(time.monotonic(), reason)
            delay_s = variant.lifecycle.delay_s
            self._announce(f"{variant.name}: stopped ({reason}); starting again in {format_seconds(delay_s)}")
            await asyncio.sleep(delay_s)
            try:
                await self._start(variant, check=True)
                reason = ""
            except PrunebenchError as error:
                reason = str(error)


async def _ready_or_exited(variant: ServedVariant, worker: WorkerProcess, log_path: Path) -> None:
    """Raises ServingError if the engine ends, or refuses, before it has generated a token."""
    ready = asyncio.ensure_future(until_ready(variant.pool, variant.name))
    exited = asyncio.ensure_future(worker.exited())
    try:
        await asyncio.wait((ready, exited), return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            raise ServingError(f"The model {variant.name!r} could not be started: {exited.result()} (log: {log_path}).")
        ready.result()
    finally:
        ready.cancel()
        exited.cancel()


def need_of(variant: ServedVariant, fleet: Fleet) -> memory.Need:
    """A hub model's weights are not known before it is downloaded and count as nothing."""
    folder = local_folder(str(variant.entry.model))
    weights = weights_bytes(folder, fleet.dtype) if folder is not None else 0
    return memory.Need(variant.name, weights, variant.entry.kv_cache_bytes or fleet.kv_cache_bytes)
