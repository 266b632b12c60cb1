"""How is one HTTP/1.1 response read from an upstream with the least work per piece of body?

A protocol that hands body bytes to a sink inside the event loop's own callback, once per read: no header objects, no
decoding, no events, no task that must be woken. Until there is a sink it buffers at most `HIGH_WATER_BYTES` and then
stops reading; afterwards whoever owns the sink pauses it, so a slow client slows the engine's socket instead of
filling this process's memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from httptools import HttpParserError, HttpResponseParser

HIGH_WATER_BYTES = 256 * 1024
# Of a socket in the kernel, which would let it grow to megabytes for everybody who does not read.
SOCKET_BUFFER_BYTES = 128 * 1024

# Takes what one read brought of the body, and whether that was the last of it.
Sink = Callable[[bytes, bool], None]
# Told that a connection's `settled`, `complete` or `lost` may have become true.
Watcher = Callable[[], None]


class UpstreamLost(Exception):
    """The connection ended before the response was complete, or what came was not HTTP."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers; names are lower-case bytes, as ASGI wants them."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


def bound_buffer(transport: asyncio.BaseTransport, option: int) -> None:
    """Sets the kernel's buffer of the transport's socket in one direction: SO_RCVBUF or SO_SNDBUF."""
    own = transport.get_extra_info("socket")
    if own is not None:
        own.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)


class UpstreamConnection(asyncio.Protocol):
    """One connection, one request at a time, one reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: Watcher | None = None
        self.lost = False
        self.uses = 0
        self._begin()

    def _begin(self) -> None:
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by the parser
        self._parser: Any = HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self.answer: ResponseHead | None = None
        self._sink: Sink | None = None
        self._early_bytes = 0
        self._held = False
        self.answered = False
        self.complete = False
        self.reusable = False

    # Used by the pool.

    def send(self, request: bytes, watcher: Watcher | None = None) -> None:
        """Starts a new exchange. Who watches it is called in the callback of what happened, until `release`."""
        if self._held:
            self.resume()
        self._begin()
        self._watcher = watcher
        self.uses += 1
        if self._transport is not None and not self.lost:
            self._transport.write(request)

    async def head(self) -> ResponseHead:
        """The head, as soon as some of the body has come with it or behind it, or there is none.

        Until then nothing is settled: engines send the head of a stream long before they know whether there will be a
        first token. Raises UpstreamLost if the connection ends first.
        """
        while not self.settled:
            await self._progress()
        return cast(ResponseHead, self.answer)

    @property
    def settled(self) -> bool:
        """Whether there will be an answer: see `head`."""
        return self.answer is not None and (self.complete or bool(self._pieces))

    @property
    def has_body(self) -> bool:
        """Whether some of the body waits for its sink."""
        return bool(self._pieces)

    async def relay(self, sink: Sink) -> None:
        """Hands every byte of the body to `sink` as it arrives; returns after the last. Raises UpstreamLost."""
        self.flow_to(sink)
        while not self.complete:
            await self._progress()

    def flow_to(self, sink: Sink) -> None:
        """Hands every byte of the body to `sink` as it arrives, beginning with what has come."""
        self._sink = sink
        self._hand_out(sink)
        if self._early_bytes > HIGH_WATER_BYTES and not self._held:
            self.resume()

    def release(self) -> None:
        """Nobody watches it any more."""
        self._watcher = None
        self._sink = None

    def pause(self) -> None:
        """Stops reading until `resume`; both may be said again."""
        self._held = True
        if self._transport is not None and not self.lost:
            self._transport.pause_reading()

    def resume(self) -> None:
        self._held = False
        if self._transport is not None and not self.lost:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Closes at once, so that the engine sees its client gone."""
        self._give_up()
        self._wake()

    def _give_up(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _progress(self) -> None:
        if self.lost:
            raise UpstreamLost
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._watcher is not None:
            self._watcher()
            return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        bound_buffer(transport, socket.SO_RCVBUF)

    def data_received(self, data: bytes) -> None:
        self.answered = True
        if self.complete:
            self.abort()  # nobody asked for more: whatever this is, the next request must not take it for its answer
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._give_up()
        if self._sink is not None:
            self._hand_out(self._sink)
        elif self._pieces:
            self._bound_early()
        if self.complete or self.lost or self._pieces:
            self._wake()

    def _hand_out(self, sink: Sink) -> None:
        pieces = self._pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            sink(body, self.complete)

    def _bound_early(self) -> None:
        below = self._early_bytes <= HIGH_WATER_BYTES
        self._early_bytes = sum(map(len, self._pieces))
        if below and self._early_bytes > HIGH_WATER_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.answer is not None and self._ends_with_connection(self.answer):
            self.complete = True
        self._wake()

    @staticmethod
    def _ends_with_connection(head: ResponseHead) -> bool:
        return head.header(b"content-length") is None and head.header(b"transfer-encoding") is None

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Raises HttpParserError, by way of the parser, for a second answer to one request."""
        if self.complete:
            raise UpstreamLost

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.answer = ResponseHead(status, tuple(self._headers))
        self._headers = []

    def on_message_complete(self) -> None:
        if self.answer is not None:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
