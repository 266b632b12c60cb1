"""Which connection does a request travel on, and when is it safe to try once more?

Connections to one upstream are kept and reused, newest first. A kept connection may have been closed by the engine at
the moment of use: if it had served before, and was lost at once without one byte, the request goes once over a fresh
connection. Nothing else is ever retried, because a generation that has begun must not be begun twice.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.connection import ResponseHead, Sink, UpstreamConnection, UpstreamLost

CONNECT_TIMEOUT_S = 5.0
STALE_WITHIN_S = 0.25
IDLE_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens: a Unix socket, or host and port with an optional path prefix."""

    socket_path: str | None = None
    host: str = "localhost"
    port: int = 80
    prefix: str = ""

    @classmethod
    def of_url(cls, url: str) -> Address:
        """`unix:/path`, or `http://host:port/prefix`; a trailing `/v1` is dropped because request paths carry it."""
        if url.startswith("unix:"):
            return cls(socket_path=url.removeprefix("unix:"))
        parts = urlsplit(url)
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(host=parts.hostname or "localhost", port=parts.port or 80, prefix=prefix)

    @property
    def authority(self) -> str:
        return "localhost" if self.socket_path else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As a fleet file has it, without `/v1` and without anything secret."""
        return f"unix:{self.socket_path}" if self.socket_path else f"http://{self.authority}{self.prefix}"


class UpstreamPool:
    """The connections to one address: those that wait for a request, and those that have one."""

    def __init__(self, address: Address, connect_s: float = CONNECT_TIMEOUT_S) -> None:
        self.address = address
        self.connect_s = connect_s
        # How a forwarded request begins, before and after its path.
        self.post = b"POST " + address.prefix.encode()
        self.host_line = b"host: " + address.authority.encode() + b"\r\n"
        self._idle: list[UpstreamConnection] = []
        self._busy: set[UpstreamConnection] = set()

    def take_idle(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                self._busy.add(connection)
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """Raises OSError if nothing listens there (TimeoutError is one)."""
        loop = asyncio.get_running_loop()
        address = self.address
        async with asyncio.timeout(self.connect_s):
            if address.socket_path is not None:
                _, protocol = await loop.create_unix_connection(lambda: UpstreamConnection(loop), address.socket_path)
            else:
                _, protocol = await loop.create_connection(lambda: UpstreamConnection(loop), address.host, address.port)
        self._busy.add(protocol)
        return protocol

    def give_back(self, connection: UpstreamConnection) -> None:
        self._busy.discard(connection)
        if connection.reusable and not connection.lost and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.abort()

    @property
    def busy(self) -> int:
        """Connections with an exchange under way."""
        return len(self._busy)

    def drop(self, connection: UpstreamConnection) -> None:
        self._busy.discard(connection)
        connection.abort()

    def cut(self) -> None:
        """Ends every exchange that is under way: its reader gets UpstreamLost."""
        for connection in tuple(self._busy):
            connection.abort()

    def close(self) -> None:
        """Ends the idle connections."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


class Exchange:
    """One request and its response. `finish` after the last byte, `abort` at any time; both may be called again.

    `sent` says whether a server may have seen the request.
    """

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._connection: UpstreamConnection | None = None
        self._aborted = False
        self.sent = False

    async def start(self, request: bytes) -> ResponseHead:
        """Raises OSError if the upstream cannot be reached, UpstreamLost if it closes without an answer."""
        idle = self._pool.take_idle()
        if idle is not None:
            sent_s = time.monotonic()
            try:
                return await self._send(idle, request)
            except UpstreamLost:
                self._pool.drop(idle)
                if idle.answered or self._aborted or time.monotonic() - sent_s > STALE_WITHIN_S:
                    raise
        return await self._send(await self._pool.connect(), request)

    async def _send(self, connection: UpstreamConnection, request: bytes) -> ResponseHead:
        self._connection = connection
        if self._aborted:
            connection.abort()
            raise UpstreamLost
        self.sent = True
        connection.send(request)
        return await connection.head()

    @property
    def has_body(self) -> bool:
        """Whether `relay` will hand something out at once."""
        return self._connection is not None and self._connection.has_body

    async def relay(self, sink: Sink) -> None:
        """See `UpstreamConnection.relay`."""
        if self._connection is None:
            raise UpstreamLost
        await self._connection.relay(sink)

    async def read(self) -> bytes:
        """The whole body."""
        pieces: list[bytes] = []
        await self.relay(lambda body, last: pieces.append(body))
        return b"".join(pieces)

    def pause(self) -> None:
        """The reader is busy: the upstream is read no further until `resume`."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def abort(self) -> None:
        self._aborted = True
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.drop(connection)


def request_bytes(address: Address, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The request as it goes over the wire. `headers` must not hold Host, Content-Length or hop-by-hop fields."""
    head = [f"{method} {address.prefix}{path} HTTP/1.1\r\nhost: {address.authority}\r\n".encode()]
    for name, value in headers:
        head += (name, b": ", value, b"\r\n")
    head.append(b"content-length: %d\r\n\r\n" % len(body))
    return b"".join((*head, body))


async def fetch(pool: UpstreamPool, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A whole small exchange: status and body. Raises OSError or UpstreamLost."""
    exchange = Exchange(pool)
    headers = [(b"content-type", b"application/json")] if body else []
    try:
        head = await exchange.start(request_bytes(pool.address, method, path, headers, body))
        answer = await exchange.read()
        exchange.finish()
    finally:
        exchange.abort()
    return head.status, answer
