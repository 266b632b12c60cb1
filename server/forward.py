"""How does a request reach its variant's worker, and the answer its client, byte for byte?

Plain ASGI without framework once per request: read the bounded body, take `model` out of it, write the same bytes to
the worker. What comes back goes from socket to socket in one callback; server-sent events are never parsed. Reading
from the worker waits until the client's socket takes more, so a slow client costs bounded memory; a client that goes
away closes the worker's connection at once, which is how the engine learns that it may stop generating.
"""

from __future__ import annotations

import asyncio
import time

from artifacts.errors import ServingError
from artifacts.limits import Timeouts
from server import faults
from server.admission import LeftQueue
from server.asgi import Message, Receive, Scope, Send
from server.ask import Ask
from server.client_side import EXTENSION, Client
from server.connection import ResponseHead, UpstreamLost
from server.deadlines import Patience
from server.keys import KEY_NAME
from server.lifecycle import TAKING
from server.metrics import CLIENT_GONE, GatewayMetrics, ObservedRequest, route_label
from server.pool import Address, Exchange, request_bytes
from server.prompt_size import require_short_prompt
from server.registry import Registry, ServedVariant
from server.replicas import Replica, least_loaded
from server.request_id import HEADER as REQUEST_ID
from server.request_id import RequestIds

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade host expect".split()
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"content-length", REQUEST_ID}
# What we say ourselves; a worker that is a gateway too says it as well.
_NOT_RETURNED = _HOP_BY_HOP | {REQUEST_ID, b"x-prunebench-variant"}
ATTEMPTS = 2


class NothingSent(Exception):
    """The replica cannot be reached and has seen nothing of the request; `fault` is for the client if none can be."""

    def __init__(self, fault: ServingError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class ClientGone(Exception):
    """The client closed its connection; nothing can be told to it any more."""


class Forwarder:
    """The ASGI application of the data path."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = observed(scope, self._ids)
        try:
            limits = self._registry.fleet.limits
            body = await read_body(scope, receive, limits.max_body_bytes)
            request.bytes_in = len(body)
            ask = Ask.parse(body)
            request.model = ask.model
            request.streamed = ask.fields.get("stream") is True
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
            await send_error(send, error, request)
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
        request.queued_s = await variant.gate.enter(
            scope["extensions"][EXTENSION], self._registry.fleet.timeouts.queue_s
        )
        try:
            await self._to_a_replica(variant, ask, scope, send, request)
        finally:
            variant.gate.leave()

    async def _to_a_replica(
        self, variant: ServedVariant, ask: Ask, scope: Scope, send: Send, request: ObservedRequest
    ) -> None:
        """One that refuses the connection has seen nothing of the request, which goes once to another."""
        refused: Replica | None = None
        fault: ServingError | None = None
        for _ in range(ATTEMPTS):
            replica = least_loaded(variant.replicas, refused)
            if replica is None:
                break
            replica.in_flight += 1
            request.replica = replica
            try:
                await _Forwarding(variant, replica, scope, ask, send, request).run(self._registry.fleet.timeouts)
                return
            except NothingSent as error:
                refused, fault = replica, error.fault
            finally:
                replica.in_flight -= 1
        raise fault or faults.unreachable(variant.name)


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
        self._replica = replica
        body = ask.body_for(variant.served_name)
        self._wire = _upstream_request(replica.pool.address, scope, body, request.id)
        self._client: Client = scope["extensions"][EXTENSION]
        self._send = send
        self._request = request
        self._exchange = Exchange(replica.pool)
        self._head: ResponseHead | None = None
        self._before, self._last = b"", b"\n\n"
        self._looked_at_bytes = 0
        self._late: ServingError | None = None

    async def run(self, allowed: Timeouts) -> None:
        """Raises NothingSent, ServingError before the response has begun, ClientGone at any time."""
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
            self._request.tail = (self._before, self._last)
            self._client.detach()
            self._exchange.abort()

    def _look(self) -> None:
        """Ends the exchange if the worker is too late; else looks again later."""
        now_s, come_bytes = self._loop.time(), self._request.bytes_out
        heard, self._looked_at_bytes = come_bytes > self._looked_at_bytes, come_bytes
        self._late = self._patience.fault(now_s, heard=heard, paused=self._client.paused)
        if self._late is None:
            self._timer = self._loop.call_at(self._patience.next_look_s(now_s), self._look)
        else:
            self._client.cut_if_paused()
            self._exchange.abort()

    async def _start(self) -> ResponseHead:
        try:
            return await self._exchange.start(self._wire)
        except OSError as error:
            self._variant.note(self._replica, error.strerror or str(error) or "no connection in time", time.monotonic())
            fault = faults.unreachable(self._variant.name)
            if isinstance(error, TimeoutError):
                fault = faults.too_slow(self._variant.name, "connect", self._replica.pool.connect_s)
            raise fault if self._exchange.sent else NothingSent(fault) from error

    async def _begin_answer(self, head: ResponseHead) -> None:
        kept = [(name, value) for name, value in head.headers if name not in _NOT_RETURNED]
        kept.append((REQUEST_ID, self._request.id))
        start = _start_message(head.status, kept + self._variant.stamp)
        await (self._client.begin(self._send, start) if self._exchange.has_body else self._send(start))
        self._head = head
        self._request.code = head.status
        if self._replica.health.failures:
            self._variant.note(self._replica, None, time.monotonic())

    def _hand_on(self, body: bytes, last: bool) -> None:
        """Once per read from the worker, in the callback in which it arrived."""
        if self._request.first_byte_s is None:
            self._request.first_byte_s = time.perf_counter()
        self._request.bytes_out += len(body)
        self._before, self._last = self._last, body
        self._client.write_body(body, last)

    async def _break_off(self) -> None:
        """The worker went away or is too late: an error answer if nothing was sent yet, else an event and a cut.

        Returning without a last body message makes the ASGI server close the connection, which no client can take
        for a normal end.
        """
        error = self._late or faults.worker_lost(self._variant.name)
        if self._head is None:
            self._variant.note(self._replica, "it hung up before it answered", time.monotonic())
            raise error
        self._request.code, self._request.refusal = error.status, error.code
        if (self._head.header(b"content-type") or b"").startswith(b"text/event-stream"):
            begun = b"" if self._last.endswith(b"\n\n") else b"\n\n"
            event = begun + faults.error_event(error)
            self._request.bytes_out += len(event)
            self._client.write_body(event, False)


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


async def send_error(send: Send, error: ServingError, request: ObservedRequest) -> None:
    """Also notes on `request` what it sends."""
    body = faults.error_body(error)
    request.code, request.refusal, request.bytes_out = error.status, error.code, len(body)
    await send(_start_message(error.status, [*faults.error_headers(error, body), (REQUEST_ID, request.id)]))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def observed(scope: Scope, ids: RequestIds) -> ObservedRequest:
    """What is known of a request by its head, and of its key by the door."""
    path, headers = scope["path"], scope["headers"]
    key_name = scope.get(KEY_NAME)
    return ObservedRequest(route_label(path), id=ids.of(headers), path=path, headers=headers, key_name=key_name)


def _start_message(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def stamped(send: Send, request: ObservedRequest) -> Send:
    """`send` for an application that knows nothing of ids: it adds the header and notes the answer on `request`."""

    async def send_stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            request.code = message["status"]
            message["headers"] = [*message["headers"], (REQUEST_ID, request.id)]
        elif message["type"] == "http.response.body":
            request.first_byte_s = request.first_byte_s or time.perf_counter()
            request.bytes_out += len(message.get("body", b""))
        await send(message)

    return send_stamped


def _upstream_request(address: Address, scope: Scope, body: bytes, request_id: bytes) -> bytes:
    path = scope["raw_path"].decode("ascii")
    if scope["query_string"]:
        path = f"{path}?{scope['query_string'].decode('ascii')}"
    headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_FORWARDED]
    headers.append((REQUEST_ID, request_id))
    return request_bytes(address, scope["method"], path, headers, body)
