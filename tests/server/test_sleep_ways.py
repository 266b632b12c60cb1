"""Is vLLM told to sleep and to wake in the right words and order, and what happens when it will not?

The worker is a Unix socket that notes what it is asked; no GPU is needed to know that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ServingError
from artifacts.fleet import Fleet
from server.engines import EngineJob, Machine, engine_command
from server.pool import Address, UpstreamPool
from server.sleeping import Sleep, SleepInPlace, StopAndStart, way_to_sleep


@dataclass
class FakeBed:
    """A worker on a socket that answers `statuses` by path (200 where none is given), and notes all that happens."""

    pool: UpstreamPool
    has_worker: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)

    async def bring_up(self) -> None:
        self.happened.append("bring up")

    async def take_down(self) -> None:
        self.happened.append("take down")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False if the worker hangs up instead."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        method, path, _ = head.split(" ", 2)
        self.happened.append(f"{method} {path} {body}".rstrip())
        status = self.statuses.get(path, 200)
        if status:
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)
        return bool(status)


def in_bed(folder: Path, use: Callable[[FakeBed], Awaitable[None]], **bed: Any) -> list[str]:
    """What happened to the worker while `use` ran."""

    async def run() -> list[str]:
        path = str(folder / "worker.sock")
        fake = FakeBed(UpstreamPool(Address(socket_path=path)), **bed)
        ended: list[asyncio.Task[None]] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ended.append(asyncio.ensure_future(fake.serve(reader, writer)))

        async with await asyncio.start_unix_server(accept, path), asyncio.timeout(10):
            await use(fake)
            fake.pool.close()
            await asyncio.gather(*ended)
        return fake.happened

    return asyncio.run(run())


ASLEEP = [
    (SleepInPlace(1), ["POST /sleep?level=1"], "weights to the host"),
    (SleepInPlace(2), ["POST /sleep?level=2"], "weights dropped"),
    (StopAndStart(), ["take down"], "no process at all"),
]


@pytest.mark.parametrize(("way", "expected", "why"), ASLEEP, ids=[why for *_, why in ASLEEP])
def test_falling_asleep(tmp_path: Path, way: Sleep, expected: list[str], why: str) -> None:
    assert in_bed(tmp_path, way.fall_asleep) == expected, why


AWAKE = [
    (SleepInPlace(1), True, ["POST /wake_up"], "weights come back from the host"),
    (
        SleepInPlace(2),
        True,
        [
            "POST /wake_up?tags=weights",
            'POST /collective_rpc {"method": "reload_weights"}',
            "POST /wake_up?tags=kv_cache",
            "POST /reset_prefix_cache",
        ],
        "memory, weights from disk, cache, and nothing in it",
    ),
    (SleepInPlace(2), False, ["bring up"], "nobody is in bed"),
    (StopAndStart(), False, ["bring up"], "a new process"),
]


@pytest.mark.parametrize(("way", "has_worker", "expected", "why"), AWAKE, ids=[why for *_, why in AWAKE])
def test_waking(tmp_path: Path, way: Sleep, has_worker: bool, expected: list[str], why: str) -> None:
    assert in_bed(tmp_path, way.wake, has_worker=has_worker) == expected, why


@pytest.mark.parametrize("status", [500, 404, 0])
def test_a_worker_that_will_not_sleep_is_stopped(tmp_path: Path, status: int) -> None:
    happened = in_bed(tmp_path, SleepInPlace(1).fall_asleep, statuses={"/sleep?level=1": status})
    assert happened == ["POST /sleep?level=1", "take down"]


@pytest.mark.parametrize("path", ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"])
def test_a_worker_that_wakes_only_half_is_an_error_and_is_asked_no_more(tmp_path: Path, path: str) -> None:
    async def use(bed: FakeBed) -> None:
        with pytest.raises(ServingError, match="The worker answered 500 to POST"):
            await SleepInPlace(2).wake(bed)

    happened = in_bed(tmp_path, use, statuses={path: 500})
    assert happened[-1].startswith(f"POST {path}")


WAYS = [
    ({"model": "org/a"}, "swap", "gpu", SleepInPlace(2), "vLLM on a GPU"),
    ({"model": "org/a"}, "swap", "cpu", StopAndStart(), "vLLM on a CPU"),
    ({"model": "org/a"}, "resident", "gpu", StopAndStart(), "nobody takes turns"),
    ({"engine": "sim"}, "swap", "gpu", StopAndStart(), "another engine"),
]


@pytest.mark.parametrize(("entry", "layout", "device", "way", "why"), WAYS, ids=[why for *_, why in WAYS])
def test_the_way_is_chosen_and_the_engine_is_told(
    entry: dict[str, Any], layout: str, device: Any, way: Sleep, why: str
) -> None:
    document = {"variants": [{"name": "a", **entry}], "layout": layout, "swap": {"level": 2}}
    fleet = Fleet.parse(document, "the test's fleet")
    machine = Machine((0, 32), device)
    found = way_to_sleep(fleet.variants[0], fleet, machine)
    assert (type(found), found) == (type(way), way if isinstance(way, SleepInPlace) else found), why
    command = engine_command(EngineJob(fleet.variants[0], fleet, "/run/a.sock"), machine)
    in_place = isinstance(way, SleepInPlace)
    assert ("--enable-sleep-mode" in command.argv) == in_place
    assert ("VLLM_SERVER_DEV_MODE" in command.env) == in_place
