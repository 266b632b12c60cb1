"""How is one HTTP/1.1 response read from an upstream with the least work per piece of body?

A protocol that hands out body bytes as they arrive and nothing else: no header objects, no decoding, no events. It
buffers at most `HIGH_WATER_BYTES` and then stops reading, so a slow client slows the engine's socket instead of
filling this process's memory.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from httptools import HttpParserError, HttpResponseParser

HIGH_WATER_BYTES = 256 * 1024


class UpstreamLost(Exception):
    """The connection ended before the response was complete, or what came was not HTTP."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers; names are lower-case bytes, as ASGI wants them."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


class UpstreamConnection(asyncio.Protocol):
    """One connection, one request at a time, one reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False
        self.uses = 0
        self._begin()

    def _begin(self) -> None:
        self._parser: Any = HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: ResponseHead | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._paused = False
        self.answered = False
        self.complete = False
        self.reusable = False

    # Used by the pool.

    def send(self, request: bytes) -> None:
        """Starts a new exchange."""
        self._begin()
        self.uses += 1
        if self._transport is not None and not self.lost:
            self._transport.write(request)

    async def head(self) -> ResponseHead:
        """Raises UpstreamLost if the connection ends first."""
        while self._head is None:
            await self._progress()
        return self._head

    async def next_chunk(self) -> bytes:
        """All body bytes that have arrived since the last call; b"" only at the end. Raises UpstreamLost."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._progress()
        chunks = self._chunks
        self._chunks = []
        self._buffered_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def abort(self) -> None:
        """Closes at once, so that the engine sees its client gone."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    async def _progress(self) -> None:
        if self.lost:
            raise UpstreamLost
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.answered = True
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._head is not None and self._ends_with_connection(self._head):
            self.complete = True
        self._wake()

    @staticmethod
    def _ends_with_connection(head: ResponseHead) -> bool:
        return head.header(b"content-length") is None and head.header(b"transfer-encoding") is None

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._head = ResponseHead(status, tuple(self._headers))
            self._wake()
        self._headers = []

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._head is not None:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
            self._wake()
