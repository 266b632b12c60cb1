"""The verb `serve`: from a fleet to an endpoint, and back to nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop

from artifacts.document import Document
from artifacts.errors import PrunebenchError, ServingError
from artifacts.files import disk_error
from artifacts.fleet import Fleet
from artifacts.priority import served_first
from server.access_log import access_log
from server.client_side import ClientSide
from server.engines import this_machine
from server.gateway import Gateway, is_ask
from server.keys import Keyring
from server.metrics import GatewayMetrics
from server.registry import Registry
from server.supervisor import Supervisor
from server.workshop import Announce

KEEP_ALIVE_S = 75
COLLECT_EVERY_OBJECTS = 20_000
# Answers that were broken off take no time to end; whoever has not ended then never will.
CUT_OFF_WITHIN_S = 5


class VariantCounts(Document):
    """What one variant did while the server ran."""

    requests: int
    failures: int
    restarts: int


class ServeSummary(Document):
    """What `serve` did, told when it ends."""

    url: str
    uptime_s: float
    variants: dict[str, VariantCounts]


def serve(
    fleet: Fleet, host: str, port: int, announce: Callable[[str], None], source: Path | None = None
) -> ServeSummary:
    """Serves until SIGINT or SIGTERM; then lets requests in flight finish (a second signal: does not).

    SIGHUP reads the fleet again from `source`, the file that it came from. Port 0 takes a free one. Must run in the
    main thread. Raises ServingError, CheckpointError or ConfigError if the port is taken or a variant cannot be
    started; no process is left in any case.
    """
    _spare_what_stays()
    with contextlib.closing(_listener(host, port)) as listener:
        url = f"http://{_bracketed(host)}:{listener.getsockname()[1]}"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(fleet, listener, url, announce, source))


def _spare_what_stays() -> None:
    """What was imported stays: the garbage collector need not look at it again, and not after every few requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS)


def _listener(host: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as on_failure:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = on_failure.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise _port_unavailable(host, port, error) from error
        on_failure.pop_all()
    return listener


def _port_unavailable(host: str, port: int, error: Exception) -> ServingError:
    reason = getattr(error, "strerror", None) or str(error)
    message = f"Port {port} on {host} cannot be opened ({reason}). Choose another --port or --host."
    return ServingError(message, code="port_unavailable")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _serve(
    fleet: Fleet, listener: socket.socket, url: str, announce: Announce, source: Path | None
) -> ServeSummary:
    began_s = time.monotonic()
    keyring = None if fleet.keys_file is None else Keyring(Path(fleet.keys_file), announce)
    with (
        _private_folder() as sockets,
        _log_folder(fleet) as logs,
        access_log(fleet.access_log) as requests,
        served_first(),
    ):
        registry = Registry(fleet, str(sockets))
        metrics = GatewayMetrics(registry, requests)
        supervisor = Supervisor(registry, this_machine(), logs, announce, source)
        endpoint = Endpoint(Gateway(registry, metrics, keyring, supervisor), listener, lambda: registry.fleet)
        stop = _stop_on_signals(endpoint, supervisor)
        _reload_on_signal(supervisor, announce)
        try:
            await _until(stop, supervisor, endpoint, lambda: announce(f"serving on {url}"))
        finally:
            registry.draining = True
            announce("stopping: requests in flight may finish")
            await _drain(endpoint, supervisor, registry.fleet.timeouts.drain_s)
            await supervisor.stop_all()
    return _summary(registry, metrics, url, time.monotonic() - began_s)


async def _until(stop: asyncio.Event, supervisor: Supervisor, endpoint: Endpoint, started: Callable[[], None]) -> None:
    """Returns when asked to stop. Raises what keeps a variant from its first start, or a worker from being watched."""
    starting = asyncio.create_task(supervisor.start_all())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping, endpoint.serving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            started()
            watched = (stopping, endpoint.serving, supervisor.broken)
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if supervisor.broken.done():
                supervisor.broken.result()
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _drain(endpoint: Endpoint, supervisor: Supervisor, within_s: float) -> None:
    """Requests in flight finish, or are told in time that they will not."""
    cutting = asyncio.create_task(supervisor.cut_off(within_s))
    await endpoint.drain(within_s + CUT_OFF_WITHIN_S)
    cutting.cancel()


def _stop_on_signals(endpoint: Endpoint, supervisor: Supervisor) -> asyncio.Event:
    """The first signal sets the returned event; a second one ends waiting requests and engines at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            endpoint.hurry()
            supervisor.kill_all()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


def _reload_on_signal(supervisor: Supervisor, announce: Announce) -> None:
    async def reload() -> None:
        try:
            await supervisor.reload()
        except PrunebenchError as error:
            announce(f"the fleet file was not taken and nothing has changed: {error}")

    reloading: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        task = asyncio.create_task(reload())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_signal)


class Endpoint(uvicorn.Server):
    """uvicorn on an open socket, with the signals left to us."""

    def __init__(self, gateway: Gateway, listener: socket.socket, fleet: Callable[[], Fleet]) -> None:
        config = uvicorn.Config(
            gateway,
            http=cast(Any, partial(ClientSide, fleet, gateway.data_path, is_ask)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        super().__init__(config)
        self.serving = asyncio.create_task(self.serve([listener]))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def drain(self, within_s: float) -> None:
        """Takes no new connection and returns when the requests in flight are answered, or so much later."""
        self.config.timeout_graceful_shutdown = math.ceil(within_s)
        self.should_exit = True
        await self.serving

    def hurry(self) -> None:
        self.force_exit = True


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """For the sockets: short, because a socket's path may have 107 bytes, and for this user only."""
    with tempfile.TemporaryDirectory(prefix="prunebench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _log_folder(fleet: Fleet) -> Iterator[Path]:
    """The fleet's state folder, or a temporary one that stays only if something failed."""
    if fleet.state_dir is not None:
        yield _writable(Path(fleet.state_dir))
        return
    folder = Path(tempfile.mkdtemp(prefix="prunebench-logs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _writable(folder: Path) -> Path:
    """Raises ConfigError if logs cannot be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise disk_error(folder, error) from error


def _summary(registry: Registry, metrics: GatewayMetrics, url: str, uptime_s: float) -> ServeSummary:
    counts = {}
    for variant in registry:
        requests, failures = metrics.counts(variant.name)
        counts[variant.name] = VariantCounts(requests=requests, failures=failures, restarts=variant.lifecycle.restarts)
    return ServeSummary(url=url, uptime_s=uptime_s, variants=counts)
