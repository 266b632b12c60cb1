"""How does a request reach its variant's worker, and the answer its client, byte for byte?

Plain ASGI without framework: read the bounded body, take `model` out of it, write the same bytes to the worker, hand
on what comes back. Server-sent events are never parsed. Reading from the worker waits until the client's socket takes
more, so a slow client costs bounded memory; a client that goes away closes the worker's connection at once, which is
how the engine learns that it may stop generating.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from artifacts.errors import ServingError
from server import faults
from server.connection import ResponseHead, UpstreamLost
from server.metrics import CLIENT_GONE, GatewayMetrics, ObservedRequest, route_label
from server.pool import Address, Exchange, request_bytes
from server.registry import Registry, ServedVariant

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade host expect".split()
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"content-length"}


class ClientGone(Exception):
    """The client closed its connection; nothing can be told to it any more."""


class Forwarder:
    """The ASGI application of the data path."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics) -> None:
        self._registry = registry
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = ObservedRequest(route_label(scope["path"]))
        try:
            body = await read_body(scope, receive, self._registry.fleet.max_body_bytes)
            variant = self._registry.get(model := model_of(body))
            if variant is None:
                raise faults.unknown_model(model, self._registry.names)
            request.variant = variant.name
            await self._admit(variant, _Forwarding(variant, scope, body, receive, send, request))
        except ServingError as error:
            request.code = error.status
            await send_error(send, error)
        except ClientGone:
            request.code = CLIENT_GONE
        finally:
            self._metrics.observe(request)

    async def _admit(self, variant: ServedVariant, forwarding: _Forwarding) -> None:
        limit = self._registry.fleet.max_in_flight
        if self._registry.draining:
            raise faults.draining()
        if variant.lifecycle.state != "ready":
            raise faults.not_ready(variant.name, variant.lifecycle.state, variant.lifecycle.reason)
        if self._registry.in_flight >= limit:
            raise faults.too_many_in_flight(limit)
        variant.in_flight += 1
        try:
            await forwarding.run()
        finally:
            variant.in_flight -= 1


class _Forwarding:
    """One admitted request on its way to one variant and back."""

    def __init__(
        self,
        variant: ServedVariant,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        request: ObservedRequest,
    ) -> None:
        self._variant = variant
        self._wire = _upstream_request(variant.pool.address, scope, body)
        self._receive = receive
        self._send = send
        self._request = request
        self._exchange = Exchange(variant.pool)
        self._head: ResponseHead | None = None
        self._event_open = False

    async def run(self) -> None:
        """Raises ServingError before the response has begun, ClientGone at any time."""
        watch = asyncio.ensure_future(self._until_client_gone())
        watch.add_done_callback(lambda _: self._exchange.abort())
        try:
            head = await self._start()
            await self._relay(head)
            self._exchange.finish()
        except UpstreamLost as error:
            if watch.done():
                raise ClientGone from error
            await self._break_off()
        finally:
            watch.cancel()
            self._exchange.abort()

    async def _until_client_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def _start(self) -> ResponseHead:
        try:
            return await self._exchange.start(self._wire)
        except OSError as error:
            raise faults.unreachable(self._variant.name) from error

    async def _relay(self, head: ResponseHead) -> None:
        kept = [(name, value) for name, value in head.headers if name not in _HOP_BY_HOP]
        await self._send(_start_message(head.status, kept + self._variant.stamp))
        self._head = head
        self._request.code = head.status
        send, exchange = self._send, self._exchange
        more = True
        while more:
            chunk = await exchange.next_chunk()
            if self._request.first_byte_s is None:
                self._request.first_byte_s = time.perf_counter()
            self._event_open = not chunk.endswith(b"\n\n")
            more = not exchange.complete
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def _break_off(self) -> None:
        """The worker went away: an error answer if nothing was sent yet, else an error event and a cut connection.

        Returning without a last body message makes the ASGI server close the connection, which no client can take
        for a normal end.
        """
        error = faults.worker_lost(self._variant.name)
        if self._head is None:
            raise error
        self._request.code = error.status
        if (self._head.header(b"content-type") or b"").startswith(b"text/event-stream"):
            event = (b"\n\n" if self._event_open else b"") + faults.error_event(error)
            await self._send({"type": "http.response.body", "body": event, "more_body": True})


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Raises ServingError (413) as soon as the body is known to be too large, ClientGone."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(declared) > limit_bytes:
        raise faults.body_too_large(limit_bytes)
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body = body + message["body"] if body else message["body"]
        more = message["more_body"]
        if len(body) > limit_bytes:
            raise faults.body_too_large(limit_bytes)
    return body


def model_of(body: bytes) -> str:
    """The request's `model`. Raises ServingError (400) if there is none to be found."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise faults.malformed_body(str(error)) from error
    if not isinstance(fields, dict):
        raise faults.malformed_body(f"it is a {type(fields).__name__}")
    model = fields.get("model")
    if not isinstance(model, str):
        raise faults.missing_model()
    return model


async def send_error(send: Send, error: ServingError) -> None:
    body = faults.error_body(error)
    await send(_start_message(error.status, faults.error_headers(error, body)))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _start_message(status: int, headers: list[tuple[bytes, bytes]]) -> MutableMapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _upstream_request(address: Address, scope: Scope, body: bytes) -> bytes:
    path = scope["raw_path"].decode("ascii")
    if scope["query_string"]:
        path = f"{path}?{scope['query_string'].decode('ascii')}"
    headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_FORWARDED]
    return request_bytes(address, scope["method"], path, headers, body)
