"""The gateway on a real port of this process, before one scripted worker that notes every byte it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from artifacts.fleet import Fleet
from server.gateway import Gateway
from server.keys import Keyring
from server.lifecycle import Lifecycle
from server.metrics import GatewayMetrics, ObservedRequest
from server.registry import Registry, ServedVariant
from server.serve import Endpoint, _listener

BODY = b'{"model": "a", "prompt": "x"}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[["Exchange"], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def ask(body: bytes = BODY, *, path: str = "/v1/completions", fields: str = "", method: str = "POST") -> bytes:
    """A request as it goes over the wire; `fields` are header lines that end in CRLF."""
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Exchange:
    """One connection of the gateway to the worker, after one request came."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: bytes

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def closed(self) -> None:
        """Returns when the gateway has closed the connection."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


@dataclass
class Answer:
    """One response as a client reads it from the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


@dataclass
class Peer:
    """A client's connection; its reader buffers little, so that a client that does not read holds the gateway up."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [line.lower().split(": ", 1) for line in lines[1:] if line]
        assert len({name for name, _ in headers}) == len(headers), "a header is there twice"
        return int(lines[0].split()[1]), dict(headers)

    async def answer(self) -> Answer:
        """The next whole response."""
        status, headers = await self.head()
        if "content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        pieces = []
        while size := int(await self.reader.readline(), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
        assert await self.reader.readline() == b"\r\n"
        return Answer(status, headers, b"".join(pieces))

    async def rest(self) -> bytes:
        """Everything until the gateway closes the connection."""
        return await self.reader.read()


@dataclass
class Opened:
    """The gateway, and what the worker and the metrics noted."""

    registry: Registry
    port: int
    script: Script
    endpoint: Endpoint = field(init=False)
    requests: list[bytes] = field(default_factory=list)
    observed: list[ObservedRequest] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)

    @property
    def variant(self) -> ServedVariant:
        return next(iter(self.registry))

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16))
        self.peers.append(peer)
        return peer

    async def asked(self, *pieces: bytes) -> Answer:
        """The answer to a request on a connection of its own."""
        peer = await self.connect()
        await peer.send(*pieces)
        return await peer.answer()

    async def work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The worker's side of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                await self.script(Exchange(reader, writer, request))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def flooding(closed: asyncio.Event, piece_bytes: int = 60_000) -> Script:
    """A worker whose stream goes on until the gateway hangs up, which sets `closed`."""

    async def flood(exchange: Exchange) -> None:
        await exchange.say(EVENTS)
        try:
            while True:
                await exchange.say(chunk(b"x" * piece_bytes))
        except ConnectionError:
            closed.set()

    return flood


async def plainly(exchange: Exchange) -> None:
    await exchange.say(PLAIN)


@asynccontextmanager
async def opened(
    folder: Path, script: Script = plainly, keyring: Keyring | None = None, **fleet: Any
) -> AsyncIterator[Opened]:
    """Serves variant `a`, whose worker does `script` for each request. Afterwards nothing may be in flight."""
    document = Fleet.parse({"variants": [{"name": "a", "engine": "sim"}], **fleet}, "the test's fleet")
    registry = Registry(document, str(folder))
    metrics = GatewayMetrics(registry)
    listener = _listener("127.0.0.1", 0)
    found = Opened(registry, listener.getsockname()[1], script)
    metrics.observe = found.observed.append  # type: ignore[method-assign]
    found.variant.lifecycle = Lifecycle(state="ready")
    async with await asyncio.start_unix_server(found.work, f"{folder}/a.sock"), asyncio.timeout(30):
        found.endpoint = Endpoint(Gateway(registry, metrics, keyring), listener, lambda: registry.fleet)
        await until(lambda: found.endpoint.started)
        try:
            yield found
        finally:
            for peer in found.peers:
                peer.writer.close()
            await found.endpoint.drain(5)
            found.variant.pool.close()
            listener.close()
    assert (registry.held, found.variant.gate.in_flight) == (0, 0)


async def until(true: Callable[[], Any]) -> None:
    """Lets everybody else work until `true`; the gateway's own timeout bounds it."""
    while not true():  # noqa: ASYNC110 - what is waited for is not the test's to signal
        await asyncio.sleep(0.001)


def run(test: Coroutine[Any, Any, None]) -> None:
    """As `serve` runs: on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)
