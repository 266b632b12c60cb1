"""How much may a client say before it is answered, how long may it take, and what is it told if it was no HTTP?

uvicorn's protocol with bounds. A request that comes in one piece, as nearly all do, costs a few comparisons and no
timer; only a client that pauses in the middle of one gets a deadline, and each connection has one timer at most.
A refused client is told why in OpenAI's envelope, after the answers it still waits for; then it is listened to for a
moment without being heard, because closing at once would destroy the refusal on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from artifacts.errors import ServingError
from artifacts.fleet import Fleet
from server import faults
from server.client_request import ClientRequest
from server.request_id import HEADER as REQUEST_ID
from server.request_id import RequestIds

LINGER_S = 1.0
# The event loop's largest read: how much may have come before the first look at it.
ONE_READ_BYTES = 256 << 10
_OF_A_BODY = frozenset((b"content-length", b"transfer-encoding"))


class ClientReading(HttpToolsProtocol):
    """What a connection brings in; `fleet` gives the limits that hold for a new connection."""

    def __init__(self, fleet: Callable[[], Fleet], **named: Any) -> None:
        super().__init__(**named)
        self._limit_bytes = fleet().limits.max_header_bytes
        self._timeouts = fleet().timeouts
        self.refusal: ServingError | None = None
        self._refused: RequestResponseCycle | None = None
        self._idle = False  # between two requests
        self._in_body = False
        self._whole = False  # did this read end with the end of a request?
        self._read_bytes = 0
        self._heard: list[tuple[bytes, bytes]] = []  # the headers of the last request
        self._unheard_bytes = 0  # at most so many came since the last piece of a request that was handed on
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_within(self._timeouts.header_s)

    def data_received(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        if self._idle:
            self._idle = False
            self._due_s = 0.0
        self._whole = False
        self._read_bytes = len(data)
        self._unheard_bytes += self._read_bytes
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self._refuse(self.refusal or faults.malformed_http())
        except HttpParserUpgrade:
            self._decline_upgrade()
        else:
            self._bound()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _decline_upgrade(self) -> None:
        """The parser has given the connection up: a request without a body is answered, one with a body has lost it."""
        if any(name in _OF_A_BODY for name, _ in self._heard):
            self._in_body = True
            self._refuse(faults.no_upgrade())
        else:
            self.cycle.keep_alive = False

    def _bound(self) -> None:
        """A request is under way, or what came is not even the beginning of one."""
        if self._whole:
            return
        if self._unheard_bytes > self._limit_bytes + ONE_READ_BYTES:
            self._refuse(faults.headers_too_large(self._limit_bytes))
        elif not self._due_s:
            self._expect_within(self._patience_s)

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._whole = False
        self.url = b""
        self.headers = []

    def on_headers_complete(self) -> None:
        """A later header is a trailer: it gets a list of its own that nobody reads."""
        self._due_s = 0.0
        if self._unheard_bytes > self._limit_bytes and self._head_bytes() > self._limit_bytes:
            self.refusal = faults.headers_too_large(self._limit_bytes)
            raise self.refusal
        self.open_request()
        self._in_body = True
        self._unheard_bytes = self._read_bytes
        self._heard, self.headers = self.headers, []

    def open_request(self) -> None:
        """As uvicorn does: what is said in its scope is found only now, because few requests need one."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        for name, value in headers:
            super().on_header(name, value)
        self.url = url
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._unheard_bytes = self._read_bytes
        cycle = cast(object, self.cycle)
        if isinstance(cycle, ClientRequest):
            cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._whole = True
        self._due_s = 0.0
        self._unheard_bytes = self._read_bytes
        cycle = cast(object, self.cycle)
        if isinstance(cycle, ClientRequest):
            cycle.whole = True
        else:
            super().on_message_complete()
        if self.cycle.response_complete:
            self._rest()

    def _head_bytes(self) -> int:
        """Of request line and headers as they are usually written."""
        line_bytes = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        return line_bytes + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)

    # Deadlines.

    @property
    def _patience_s(self) -> float:
        return self._timeouts.body_s if self._in_body else self._timeouts.header_s

    def _expect_within(self, patience_s: float) -> None:
        self._due_s = self.loop.time() + patience_s
        if self._timer is not None and self._timer_s > self._due_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._wake_at(self._due_s)

    def _wake_at(self, due_s: float) -> None:
        self._timer_s = due_s
        self._timer = self.loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._due_s or self.transport.is_closing():
            return
        if self.loop.time() < self._due_s:
            self._wake_at(self._due_s)
        elif self._idle:
            self.transport.close()
        elif self.flow.read_paused:  # it is we who do not read
            self._expect_within(self._patience_s)
        else:
            self._refuse(faults.client_too_slow("body" if self._in_body else "headers", self._patience_s))

    # Refusals.

    def _refuse(self, error: ServingError) -> None:
        """Nothing is heard from now on; what was asked before is still answered, and then this."""
        self.refusal = error
        self._due_s = 0.0
        self._refused = self.cycle if self._in_body else None
        if self._refused is not None and self._refused.response_started:
            self.transport.close()
        elif not self._answering:
            self._tell_and_close(error)

    @property
    def _answering(self) -> bool:
        """Whether a request before the refused one still waits for its answer."""
        if self._refused is None:
            return self.cycle is not None and not self.cycle.response_complete
        return any(cycle is self._refused for cycle, _ in self.pipeline)

    def on_response_complete(self) -> None:
        """As uvicorn does, without a timer for each pause between two requests."""
        if self.refusal is not None and all(cycle is self._refused for cycle, _ in self.pipeline):
            self._tell_and_close(self.refusal)
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_body:
            self._rest()

    def _rest(self) -> None:
        """Everything that was asked is answered, and all of it was heard."""
        self._idle = True
        self._expect_within(self.timeout_keep_alive)

    def _tell_and_close(self, error: ServingError) -> None:
        if self.transport.is_closing():
            return
        refused = cast(object, self._refused)
        if isinstance(refused, ClientRequest):
            refused.leave()
        elif self._refused is not None:
            self._refused.disconnected = True
            self._refused.message_event.set()
        body = faults.error_body(error)
        head = [STATUS_LINE[error.status]]
        stamps = ((REQUEST_ID, RequestIds().of(())), (b"connection", b"close"))
        for name, value in (*faults.error_headers(error, body), *stamps):
            head += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*head, b"\r\n", body)))
        self.transport.write_eof()
        self.flow.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
