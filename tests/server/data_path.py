"""The gateway's data path before a worker that speaks given bytes; the client is the list of what it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from artifacts.errors import ServingError
from artifacts.fleet import Fleet
from server import faults
from server.client import Upstream
from server.doorkeeper import Doorkeeper
from server.forward import Forwarder
from server.lifecycle import Lifecycle
from server.metrics import GatewayMetrics, ObservedRequest
from server.registry import Registry, ServedVariant
from server.request_head import RequestHead, header_lines
from server.request_id import HEADER as REQUEST_ID

BODY = b'{"model": "a",   "prompt": "\xc3\xa4"}'
OK = b"HTTP/1.1 200 OK\r\nX-Own: 1\r\n"
PLAIN = OK + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = OK + b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass
class Caller:
    """One client: what it sends, what it got; `leave` closes its connection."""

    body: bytes = BODY
    headers: tuple[tuple[bytes, bytes], ...] = ()
    path: str = "/v1/completions"
    query: bytes = b""
    whole: bool = True
    gone: bool = False
    paused: bool = False
    refusal: ServingError | None = None
    upstream: Upstream | None = None
    told: bytes = b""
    status: int = 0
    answer: bytes = b""
    ended: bool = False
    got: list[tuple[bytes, bytes]] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    @cached_property
    def head(self) -> RequestHead:
        target = self.path.encode() + (b"?" + self.query if self.query else b"")
        return RequestHead(self.path, target, list(self.headers))

    @property
    def body_bytes(self) -> int:
        return len(self.body)

    async def ask(self, forwarder: Forwarder) -> Caller:
        """Returns when the answer has ended, or been cut."""
        request = forwarder.hear_head(self)
        if not self.finished.is_set():
            forwarder.hear_body(self, request)
        await self.finished.wait()
        return self

    def begin(self, status: int, lines: bytes, length: int | None) -> None:
        self.status = status
        fields = (line.split(b": ", 1) for line in lines.split(b"\r\n") if line)
        self.got = [(name, value) for name, value in fields]

    def write_body(self, body: bytes, last: bool) -> None:
        self.answer += body

    def end(self) -> None:
        self.ended = True
        self.finished.set()

    def cut(self) -> None:
        self.finished.set()

    def cut_if_paused(self) -> bool:
        return self.paused

    def refuse(self, error: ServingError, body: bytes, request_id: bytes) -> None:
        fields = [*faults.error_headers(error, body), (REQUEST_ID, request_id)]
        self.begin(error.status, header_lines(fields), len(body))
        self.write_body(body, True)
        self.end()

    def attach(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def detach(self) -> None:
        self.upstream = None

    def leave(self) -> None:
        self.gone = True
        if self.upstream is not None:
            self.upstream.abort()
        self.finished.set()

    @property
    def code(self) -> str:
        return str(json.loads(self.answer)["error"]["code"])


@dataclass
class DataPath:
    """The gateway's data path before one worker that gives `answer` to each request and then may hang up."""

    registry: Registry
    forwarder: Forwarder
    observed: list[ObservedRequest]
    requests: list[bytes]
    arrived: asyncio.Event

    @property
    def variant(self) -> ServedVariant:
        return next(iter(self.registry))

    async def ask(self, client: Caller) -> Caller:
        return await client.ask(self.forwarder)


def forwarding(
    folder: Path, answer: bytes, use: Callable[[DataPath], Awaitable[None]], *, hang_up: bool = True, **fleet: Any
) -> None:
    """Runs `use` against the path; afterwards no request may be in flight."""

    async def run() -> None:
        entries = {"variants": [{"name": "a", "engine": "sim"}], **fleet}
        registry = Registry(Fleet.parse(entries, "the test's fleet"), str(folder))
        metrics = GatewayMetrics(registry)
        observed: list[ObservedRequest] = []
        metrics.observe = observed.append  # type: ignore[method-assign]
        path = DataPath(registry, Forwarder(registry, metrics, Doorkeeper(None)), observed, [], asyncio.Event())
        path.variant.lifecycle = Lifecycle(state="ready")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            path.requests.append(head + await reader.readexactly(length))
            path.arrived.set()
            writer.write(answer)
            if not hang_up:
                await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(serve, f"{folder}/a.sock"), asyncio.timeout(20):
            await use(path)
            path.variant.pool.close()
        assert registry.held == 0

    asyncio.run(run())
