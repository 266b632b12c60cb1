"""Where does a client's connection meet the data path, and where uvicorn's ASGI application?

uvicorn's protocol keeps the order of the requests and the connection's life. A request to a worker gets a cycle of our
own and no task: while this client does not read, its upstream is paused; when it goes away, the upstream is aborted in
the same callback. Everything else is ASGI's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from httptools import parse_url
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from artifacts.fleet import Fleet
from server.client import Upstream
from server.client_reading import ClientReading
from server.client_request import ClientRequest, DataPath
from server.connection import bound_buffer
from server.metrics import FORWARDED_ROUTES
from server.request_head import RequestHead

# Method, path, and path as it was written: is this one for the data path?
IsAsk = Callable[[bytes, str, bytes], bool]
_ROUTES = {path.encode(): path for path in FORWARDED_ROUTES}


class ClientSide(ClientReading):
    """One client connection, whose requests are answered one after the other."""

    def __init__(self, fleet: Callable[[], Fleet], data_path: DataPath, is_ask: IsAsk, **named: Any) -> None:
        super().__init__(fleet, **named)
        self.data_path = data_path
        self._is_ask = is_ask
        self.upstream: Upstream | None = None
        self.gone = False
        self._turn: ClientRequest | None = None  # whose turn it is, if it is for the data path

    # Called by the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        bound_buffer(transport, socket.SO_SNDBUF)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._turn is not None:
            self._turn.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        turn, self._turn = self._turn, None
        if self.upstream is not None:
            self.upstream.abort()
        elif turn is not None:
            turn.leave()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # it holds the connection that holds it

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.upstream is not None:
            self.upstream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.upstream is not None:
            self.upstream.resume()
        elif self._turn is not None:
            self._turn.advance()

    # Called by the protocol above.

    def open_request(self) -> None:
        """The headers are complete; an earlier request may still be under way."""
        head = self._asked_head()
        if head is None:
            super().open_request()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        request, before = ClientRequest(self, head, keep_alive), self.cycle
        self.cycle = cast(RequestResponseCycle, request)
        if before is None or before.response_complete:
            self._turn = request
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _asked_head(self) -> RequestHead | None:
        """Of a request for the data path. Raises HttpParserError for a target that is none."""
        method, target = self.parser.get_method(), self.url
        path = _ROUTES.get(target)
        raw_path = target
        if path is None:
            parts = parse_url(target)
            raw_path = parts.path
            path = unquote(raw_path.decode("ascii"))
            target = raw_path if not parts.query else raw_path + b"?" + parts.query
        return RequestHead(path, target, self.headers) if self._is_ask(method, path, raw_path) else None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """A request whose turn has come; that it begins in a callback of its own bounds the stack."""
        request = cast(object, cycle)
        if isinstance(request, ClientRequest):
            self._turn = request
            self.loop.call_soon(request.advance)
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._turn = None
        super().on_response_complete()
