"""How does a request reach its variant's worker, and the answer its client, byte for byte?

Plain ASGI without framework once per request: read the bounded body, take `model` out of it, write the same bytes to
the worker. What comes back goes from socket to socket in one callback; server-sent events are never parsed. Reading
from the worker waits until the client's socket takes more, so a slow client costs bounded memory; a client that goes
away closes the worker's connection at once, which is how the engine learns that it may stop generating.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from artifacts.errors import ServingError
from artifacts.limits import Timeouts
from server import faults
from server.admission import LeftQueue
from server.ask import Ask
from server.client_side import EXTENSION, Client
from server.connection import ResponseHead, UpstreamLost
from server.deadlines import Patience
from server.lifecycle import TAKING
from server.metrics import CLIENT_GONE, GatewayMetrics, ObservedRequest, route_label
from server.pool import Address, Exchange, request_bytes
from server.prompt_size import require_short_prompt
from server.registry import Registry, ServedVariant
from server.replicas import Replica, least_loaded

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
            limits = self._registry.fleet.limits
            ask = Ask.parse(await read_body(scope, receive, limits.max_body_bytes))
            if limits.max_prompt_chars is not None:
                require_short_prompt(ask.fields, limits.max_prompt_chars)
            variant = self._registry.resolve(ask.model)
            if variant is None:
                raise faults.unknown_model(ask.model, self._registry.names)
            request.variant = variant.name
            self._require_open(variant)
            self._registry.held += 1
            try:
                await self._in_turn(variant, ask, scope, send, request)
            finally:
                self._registry.held -= 1
        except ServingError as error:
            request.code = error.status
            await send_error(send, error)
        except (ClientGone, LeftQueue):
            refusal = scope["extensions"][EXTENSION].refusal
            request.code = CLIENT_GONE if refusal is None else refusal.status
        finally:
            self._metrics.observe(request)

    def _require_open(self, variant: ServedVariant) -> None:
        limit = self._registry.fleet.limits.max_in_flight
        if self._registry.draining:
            raise faults.draining()
        if variant.lifecycle.state not in TAKING:
            raise faults.not_ready(variant.name, variant.lifecycle.state, variant.lifecycle.reason)
        if self._registry.held >= limit:
            raise faults.too_many_in_flight(limit)

    async def _in_turn(
        self, variant: ServedVariant, ask: Ask, scope: Scope, send: Send, request: ObservedRequest
    ) -> None:
        await variant.gate.enter(scope["extensions"][EXTENSION], self._registry.fleet.timeouts.queue_s)
        replica = least_loaded(variant.replicas)
        try:
            if replica is None:
                raise faults.unreachable(variant.name)
            replica.in_flight += 1
            try:
                await _Forwarding(variant, replica, scope, ask, send, request).run(self._registry.fleet.timeouts)
            finally:
                replica.in_flight -= 1
        finally:
            variant.gate.leave()


class _Forwarding:
    """One admitted request on its way to one variant and back."""

    def __init__(
        self,
        variant: ServedVariant,
        replica: Replica,
        scope: Scope,
        ask: Ask,
        send: Send,
        request: ObservedRequest,
    ) -> None:
        self._variant = variant
        body = ask.body_for(variant.entry.served_name or variant.name)
        self._wire = _upstream_request(replica.pool.address, scope, body)
        self._client: Client = scope["extensions"][EXTENSION]
        self._send = send
        self._request = request
        self._pool = replica.pool
        self._exchange = Exchange(self._pool)
        self._head: ResponseHead | None = None
        # The last piece of the body; a look of the timer leaves a bytearray, so that a new piece is known by its type.
        self._last: bytes | bytearray = bytearray(b"\n\n")
        self._late: ServingError | None = None

    async def run(self, allowed: Timeouts) -> None:
        """Raises ServingError before the response has begun, ClientGone at any time."""
        self._loop = asyncio.get_running_loop()
        began_s = self._loop.time()
        self._patience = Patience(self._variant.name, allowed, began_s)
        self._timer = self._loop.call_at(self._patience.next_look_s(began_s), self._look)
        self._client.attach(self._exchange)
        try:
            await self._begin_answer(await self._start())
            await self._exchange.relay(self._hand_on)
            self._exchange.finish()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except UpstreamLost as error:
            if self._client.gone:
                raise ClientGone from error
            await self._break_off()
        finally:
            self._timer.cancel()
            self._client.detach()
            self._exchange.abort()

    def _look(self) -> None:
        """Ends the exchange if the worker is too late; else looks again later."""
        now_s = self._loop.time()
        self._late = self._patience.fault(now_s, heard=type(self._last) is bytes, paused=self._client.paused)
        if self._late is None:
            self._last = bytearray(self._last[-2:])
            self._timer = self._loop.call_at(self._patience.next_look_s(now_s), self._look)
        else:
            self._client.cut_if_paused()
            self._exchange.abort()

    async def _start(self) -> ResponseHead:
        try:
            return await self._exchange.start(self._wire)
        except TimeoutError as error:
            raise faults.too_slow(self._variant.name, "connect", self._pool.connect_s) from error
        except OSError as error:
            raise faults.unreachable(self._variant.name) from error

    async def _begin_answer(self, head: ResponseHead) -> None:
        kept = [(name, value) for name, value in head.headers if name not in _HOP_BY_HOP]
        await self._send(_start_message(head.status, kept + self._variant.stamp))
        self._head = head
        self._request.code = head.status

    def _hand_on(self, body: bytes, last: bool) -> None:
        """Once per read from the worker, in the callback in which it arrived."""
        if self._request.first_byte_s is None:
            self._request.first_byte_s = time.perf_counter()
        self._last = body
        self._client.write_body(body, last)

    async def _break_off(self) -> None:
        """The worker went away or is too late: an error answer if nothing was sent yet, else an event and a cut.

        Returning without a last body message makes the ASGI server close the connection, which no client can take
        for a normal end.
        """
        error = self._late or faults.worker_lost(self._variant.name)
        if self._head is None:
            raise error
        self._request.code = error.status
        if (self._head.header(b"content-type") or b"").startswith(b"text/event-stream"):
            begun = b"" if self._last.endswith(b"\n\n") else b"\n\n"
            self._client.write_body(begun + faults.error_event(error), False)


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
