"""How is one request answered on its client's connection without a task?

It stands where uvicorn's protocol has its ASGI cycle. The data path hears of it when its turn has come, and answers in
whatever callback it has something to say. Every write is a system call, so a head waits for the body that follows at
once, and the end travels with the last of it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from artifacts.errors import ServingError
from server import faults
from server.client import Client, Upstream
from server.metrics import ObservedRequest
from server.request_head import RequestHead, header_lines
from server.request_id import HEADER as REQUEST_ID

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_BODILESS = frozenset((204, 304))


class DataPath(Protocol):
    """Who answers requests that are forwarded."""

    def hear_head(self, client: Client) -> ObservedRequest:
        """A request whose turn it is. It may have been refused on return."""

    def hear_body(self, client: Client, request: ObservedRequest) -> None:
        """More of its body has come, or all of it."""

    def lose(self, client: Client, request: ObservedRequest) -> None:
        """Its client went away, or was sent away, before all of it had come."""


class Connection(Protocol):
    """What a request needs of the connection that it came on."""

    transport: asyncio.Transport
    flow: FlowControl
    upstream: Upstream | None
    gone: bool
    refusal: ServingError | None
    data_path: DataPath

    def on_response_complete(self) -> None: ...


class _NobodyWaits:
    """For uvicorn, which wakes a request's task when its client is lost."""

    def set(self) -> None: ...


class ClientRequest:
    """One request of a connection. What uvicorn's protocol sets and reads of a cycle has uvicorn's names."""

    __slots__ = (
        *("_body", "_chunked", "_connection", "_held", "_on_its_way", "_request", "_transport", "disconnected"),
        *("head", "keep_alive", "response_complete", "response_started", "told", "whole"),
    )
    message_event = _NobodyWaits()

    def __init__(self, connection: Connection, head: RequestHead, keep_alive: bool) -> None:
        self._connection = connection
        self._transport = connection.transport
        self.head = head
        self.keep_alive = keep_alive
        self.told = b""
        self.whole = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._body: bytes | bytearray = b""
        self._chunked = False
        self._held = b""
        self._on_its_way = False
        self._request: ObservedRequest | None = None

    # Said by the connection.

    def take(self, body: bytes) -> None:
        """A piece of the request's body."""
        if self.response_complete:
            return
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def advance(self) -> None:
        """It is this request's turn, and more of it may have come. A client that takes nothing is not heard either."""
        if self._on_its_way or self.disconnected or self.response_complete:
            return
        if self.paused:
            self._connection.flow.pause_reading()
            return
        if not self.whole:
            self._connection.flow.resume_reading()
        data_path = self._connection.data_path
        if self._request is None:
            self._request = data_path.hear_head(self)
            if self.response_complete:
                return
        self._on_its_way = self.whole
        data_path.hear_body(self, self._request)
        if self._on_its_way:
            self._body = b""
        if self.head.expects_continue and not (self.whole or self.response_complete):
            self.head.expects_continue = False
            self._transport.write(_CONTINUE)

    def leave(self) -> None:
        """Nothing more comes of it and nothing can be told to it."""
        self.disconnected = True
        if self._request is not None and not (self._on_its_way or self.response_complete):
            self._on_its_way = True
            self._connection.data_path.lose(self, self._request)

    # Asked and said by the data path.

    @property
    def body(self) -> bytes:
        """As far as it has come."""
        return bytes(self._body)

    @property
    def body_bytes(self) -> int:
        """How much of it has come."""
        return len(self._body)

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

    def cut_if_paused(self) -> bool:
        """What waits for a client that takes nothing would wait for ever. Whether that was so."""
        if self.paused:
            self._transport.abort()
        return self.paused

    def attach(self, upstream: Upstream) -> None:
        """From now on `upstream` follows this client's pace, and ends with it."""
        self._connection.upstream = upstream
        if self._connection.gone:
            upstream.abort()
        elif self._connection.flow.write_paused:
            upstream.pause()

    def detach(self) -> None:
        self._connection.upstream = None

    def begin(self, status: int, lines: bytes, length: int | None) -> None:
        """The answer's head, which waits for what follows at once; `length` is of its body, if that is known."""
        self.response_started = True
        self._chunked = length is None and status not in _BODILESS
        framing = (b"" if self.keep_alive else _CLOSE) + (_CHUNKED if self._chunked else b"")
        line = STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._held = b"".join((line, lines, self.told, framing, b"\r\n"))

    def write_body(self, body: bytes, last: bool) -> None:
        """What has come of the answer that is under way; `body` is not empty."""
        if self._chunked:
            if last:
                self._chunked = False
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            else:
                body = b"%x\r\n%b\r\n" % (len(body), body)
        if self._held:
            body = self._held + body
            self._held = b""
        self._transport.write(body)

    def end(self) -> None:
        """The answer is whole."""
        rest = self._held + b"0\r\n\r\n" if self._chunked else self._held
        if rest:
            self._transport.write(rest)
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._connection.on_response_complete()

    def cut(self) -> None:
        """The answer has no end, which no client can take for a normal one."""
        self._transport.close()

    def refuse(self, error: ServingError, body: bytes, request_id: bytes) -> None:
        """A whole answer: the error, with `body` in OpenAI's envelope."""
        self.begin(
            error.status, header_lines((*faults.error_headers(error, body), (REQUEST_ID, request_id))), len(body)
        )
        self.write_body(body, True)
        self.end()
