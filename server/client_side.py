"""How does an upstream write a response's body to the client without a task in between?

uvicorn's HTTP protocol does everything that happens once per request. For what happens once per token it offers itself
in the ASGI scope: between the message that starts a response and the one that ends it, the data path writes the body
through `write_body`, in the very callback in which the bytes arrived. While this client does not read, the upstream is
paused; when the client goes away, the upstream is aborted in the same callback. Every write is a system call, so head
and end travel with the body.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from artifacts.errors import ServingError
from server.asgi import Message, Send
from server.client_reading import ClientReading
from server.connection import bound_buffer

EXTENSION = "prunebench.client"


class Upstream(Protocol):
    """What a client slows down and ends."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class Client(Protocol):
    """What the data path needs to know of a connection besides ASGI."""

    @property
    def gone(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    @property
    def refusal(self) -> ServingError | None: ...

    def cut_if_paused(self) -> None: ...

    def attach(self, upstream: Upstream) -> None: ...

    def detach(self) -> None: ...

    async def begin(self, send: Send, start: Message) -> None: ...

    def write_body(self, body: bytes, last: bool) -> None: ...


class ClientSide(ClientReading):
    """One client connection, whose requests are answered one after the other."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.upstream: Upstream | None = None
        self.gone = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        bound_buffer(transport, socket.SO_SNDBUF)

    def on_headers_complete(self) -> None:
        """The cycle is made here and its task runs later: pipelined requests have theirs before the first has ended."""
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: cast(Any, ClientRequest(self, self.cycle))}

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self.upstream is not None:
            self.upstream.abort()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.upstream is not None:
            self.upstream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.upstream is not None:
            self.upstream.resume()


class _Held:
    """Stands in for a transport and keeps what is written."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = b""

    def write(self, data: bytes) -> None:
        self.bytes += data


class ClientRequest:
    """One request of a connection: the `Client` that the data path finds in the scope."""

    __slots__ = ("_connection", "_cycle", "_head", "_transport")

    def __init__(self, connection: ClientSide, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self._transport = connection.transport
        self._head = b""

    @property
    def gone(self) -> bool:
        return self._connection.gone

    @property
    def paused(self) -> bool:
        """Whether it takes nothing at the moment."""
        return self._connection.flow.write_paused

    @property
    def refusal(self) -> ServingError | None:
        """What the connection was ended with, if it was not the client that ended it."""
        return self._connection.refusal

    def cut_if_paused(self) -> None:
        """What waits for a client that takes nothing would wait for ever."""
        if self.paused:
            self._transport.abort()

    def attach(self, upstream: Upstream) -> None:
        """From now on `upstream` follows this client's pace, and ends with it."""
        self._connection.upstream = upstream
        if self._connection.gone:
            upstream.abort()
        elif self._connection.flow.write_paused:
            upstream.pause()

    def detach(self) -> None:
        self._connection.upstream = None

    async def begin(self, send: Send, start: Message) -> None:
        """Sends the message that starts a response, whose head waits for the body that must follow at once."""
        held = _Held()
        self._cycle.transport = cast(asyncio.Transport, held)
        try:
            await send(start)
        finally:
            self._cycle.transport = self._transport
        self._head = held.bytes

    def write_body(self, body: bytes, last: bool) -> None:
        """What has come of the response that is under way; `body` is not empty. An ASGI message must still end it.

        The end of the chunks travels with the last of them, and uvicorn has nothing left to write.
        """
        cycle = self._cycle
        if not cycle.chunked_encoding:
            cycle.expected_content_length -= len(body)
        elif last:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            cycle.chunked_encoding = False
        else:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if self._head:
            body = self._head + body
            self._head = b""
        self._transport.write(body)
