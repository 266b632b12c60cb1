"""How does one admitted request get to its variant's worker, and the answer to its client?

In callbacks: a worker's bytes go to the client's socket in the one in which they came, and the answer ends in the one
that brought its end. A task exists only while a request waits for its turn or for a connection. Whatever happens, an
errand ends once, and then gives back what it held.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field

from artifacts.errors import ServingError
from server import faults
from server.admission import LeftQueue
from server.ask import Ask
from server.client import Client
from server.connection import ResponseHead, UpstreamConnection
from server.deadlines import Patience
from server.metrics import CLIENT_GONE, GatewayMetrics, ObservedRequest
from server.pool import STALE_WITHIN_S, UpstreamPool
from server.registry import Registry, ServedVariant
from server.replicas import Replica, least_loaded
from server.request_head import HOP_BY_HOP, RequestHead
from server.request_id import HEADER as REQUEST_ID
from server.watch import Watch

# What we say ourselves; a worker that is a gateway too says it as well.
_NOT_RETURNED = HOP_BY_HOP | {REQUEST_ID, b"x-prunebench-variant"}
_NOT_RETURNED_TO_THE_RATED = _NOT_RETURNED | faults.RATE_HEADERS


@dataclass(slots=True)
class Desk:
    """What all errands share; a task is kept while it waits."""

    registry: Registry
    metrics: GatewayMetrics
    watch: Watch = field(default_factory=Watch)
    waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def wait(self, waiting: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(waiting)
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    def refuse(self, client: Client, error: ServingError, request: ObservedRequest) -> None:
        """Also notes on `request` what it sends, and counts it."""
        body = faults.error_body(error)
        request.code, request.refusal, request.bytes_out = error.status, error.code, len(body)
        self.metrics.observe(request)
        client.refuse(error, body, request.id)

    def lose(self, client: Client, request: ObservedRequest) -> None:
        """The client is gone, or was sent away."""
        refusal = client.refusal
        request.code = CLIENT_GONE if refusal is None else refusal.status
        self.metrics.observe(request)


class Errand:
    """One admitted request on its way to one variant and back."""

    __slots__ = (
        *("_answer", "_ask", "_before", "_client", "_connection", "_desk", "_ended", "_fault", "_inside", "_last"),
        *("_late", "_looked_at_bytes", "_patience", "_replica", "_request", "_reused", "_sent_s"),
        *("_variant", "_wire"),
    )

    def __init__(self, desk: Desk, client: Client, request: ObservedRequest, variant: ServedVariant, ask: Ask) -> None:
        self._desk = desk
        self._client = client
        self._request = request
        self._variant = variant
        self._ask = ask
        self._inside = False
        self._ended = False
        self._replica: Replica | None = None
        self._fault: ServingError | None = None
        self._late: ServingError | None = None
        self._connection: UpstreamConnection | None = None
        self._answer: ResponseHead | None = None
        self._sent_s: float | None = None
        self._before, self._last = b"", b"\n\n"
        self._looked_at_bytes = 0

    def start(self) -> None:
        self._desk.registry.held += 1
        if self._variant.gate.enter_at_once():
            self._inside = True
            self._choose_replica(None)
        else:
            self._desk.wait(self._queue())

    async def _queue(self) -> None:
        try:
            queue_s = self._desk.registry.fleet.timeouts.queue_s
            self._request.queued_s = await self._variant.gate.enter(self._client, queue_s)
        except ServingError as error:
            self._refuse(error)
        except LeftQueue:
            self._lose()
        else:
            self._inside = True
            self._choose_replica(None)

    # To a worker.

    def _choose_replica(self, besides: Replica | None) -> None:
        """One that refuses the connection has seen nothing of the request, which goes once to another."""
        replica = least_loaded(self._variant.replicas, besides)
        if replica is None:
            self._refuse(self._fault or faults.unreachable(self._variant.name))
            return
        self._replica = self._request.replica = replica
        replica.in_flight += 1
        pool = replica.pool
        body = self._ask.body_for(self._variant.served_name)
        self._wire = wire_bytes(pool, self._client.head, body, self._request.id)
        began_s = time.monotonic()
        self._patience = Patience(self._variant.name, self._desk.registry.fleet.timeouts, began_s)
        self._desk.watch.add(self, self._patience.next_look_s(began_s))
        self._client.attach(self)
        if self._ended:
            return
        idle = pool.take_idle()
        if idle is None:
            self._desk.wait(self._connect(replica))
        else:
            self._send(idle, reused=True)

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.pool.connect()
        except OSError as error:
            if not self._ended:
                self._miss(replica, error)
            return
        if self._ended:
            replica.pool.drop(connection)
        else:
            self._send(connection, reused=False)

    def _miss(self, replica: Replica, error: OSError) -> None:
        """The replica cannot be reached. If it may have seen the request it was lost, else another may take it."""
        variant = self._variant
        variant.note(replica, error.strerror or str(error) or "no connection in time", time.monotonic())
        if self._sent_s is not None:
            self._refuse(faults.worker_lost(variant.name))
            return
        fault = faults.unreachable(variant.name)
        if isinstance(error, TimeoutError):
            fault = faults.too_slow(variant.name, "connect", replica.pool.connect_s)
        if self._fault is not None:
            self._refuse(fault)
            return
        self._fault = fault
        self._leave_replica()
        self._choose_replica(replica)

    def _send(self, connection: UpstreamConnection, *, reused: bool) -> None:
        self._connection = connection
        self._reused = reused
        self._sent_s = time.monotonic()
        connection.send(self._wire, self._progress)
        if connection.lost:
            self._progress()

    def _progress(self) -> None:
        """The connection's answer has settled, or is complete, or will never be."""
        connection = self._connection
        if connection is None:
            return
        if self._answer is None and connection.settled and connection.answer is not None:
            self._begin_answer(connection.answer)
            connection.flow_to(self._hand_on)
        if connection.complete:
            self._finish(connection)
        elif connection.lost:
            self._lost(connection)

    def _lost(self, connection: UpstreamConnection) -> None:
        """A kept connection that was closed at the moment of use has cost nothing: once more, over a fresh one."""
        replica, sent_s = self._replica, self._sent_s
        stale = self._reused and not connection.answered and self._late is None
        self._drop_connection()
        if stale and replica and sent_s is not None and time.monotonic() - sent_s <= STALE_WITHIN_S:
            self._desk.wait(self._connect(replica))
        else:
            self._break_off()

    # Back to the client.

    def _begin_answer(self, answer: ResponseHead) -> None:
        request, client = self._request, self._client
        self._answer = answer
        self._wire = b""
        request.code = answer.status
        lines, length = returned(answer, _NOT_RETURNED_TO_THE_RATED if client.told else _NOT_RETURNED)
        own = b"x-request-id: %b\r\n%b" % (request.id, self._variant.stamp)
        client.begin(answer.status, lines + own, length)
        if self._replica is not None and self._replica.health.failures:
            self._variant.note(self._replica, None, time.monotonic())

    def _hand_on(self, body: bytes, last: bool) -> None:
        """Once per read from the worker, in the callback in which it arrived."""
        request = self._request
        if request.first_byte_s is None:
            request.first_byte_s = time.perf_counter()
        request.bytes_out += len(body)
        self._before, self._last = self._last, body
        self._client.write_body(body, last)

    def _finish(self, connection: UpstreamConnection) -> None:
        """A client that does not take its answer keeps its place, but not the worker's connection."""
        self._connection = None
        connection.release()
        if self._replica is not None:
            self._replica.pool.give_back(connection)
        if not self._client.paused:
            self._complete()

    def _complete(self) -> None:
        self._end()
        self._desk.metrics.observe(self._request)
        self._client.end()

    def look(self, now_s: float) -> float:
        """Ends the errand if the worker is too late."""
        come_bytes = self._request.bytes_out
        heard, self._looked_at_bytes = come_bytes > self._looked_at_bytes, come_bytes
        self._late = self._patience.fault(now_s, heard=heard, paused=self._client.paused)
        if self._late is not None and not self._client.cut_if_paused():
            self._drop_connection()
            self._break_off()
        return math.inf if self._late else self._patience.next_look_s(now_s)

    def _break_off(self) -> None:
        """The worker went away or is too late: an error answer if nothing was sent yet, else an event and a cut."""
        error = self._late or faults.worker_lost(self._variant.name)
        if self._answer is None:
            if self._replica is not None:
                self._variant.note(self._replica, "it hung up before it answered", time.monotonic())
            self._refuse(error)
            return
        self._request.code, self._request.refusal = error.status, error.code
        if (self._answer.header(b"content-type") or b"").startswith(b"text/event-stream"):
            begun = b"" if self._last.endswith(b"\n\n") else b"\n\n"
            event = begun + faults.error_event(error)
            self._request.bytes_out += len(event)
            self._client.write_body(event, False)
        self._end()
        self._desk.metrics.observe(self._request)
        self._client.cut()

    # Said by the client's connection.

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()
        elif self._answer is not None and not self._ended:
            self._complete()

    def abort(self) -> None:
        if not self._ended:
            self._drop_connection()
            self._lose()

    # Ends.

    def _refuse(self, error: ServingError) -> None:
        self._end()
        self._desk.refuse(self._client, error, self._request)

    def _lose(self) -> None:
        self._end()
        self._desk.lose(self._client, self._request)

    def _end(self) -> None:
        self._ended = True
        self._request.tail = (self._before, self._last)
        self._client.detach()
        self._leave_replica()
        if self._inside:
            self._variant.gate.leave()
        self._desk.registry.held -= 1

    def _leave_replica(self) -> None:
        if self._replica is not None:
            self._desk.watch.drop(self)
            self._replica.in_flight -= 1
            self._replica = None

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._replica is not None:
            connection.release()
            self._replica.pool.drop(connection)


def wire_bytes(pool: UpstreamPool, head: RequestHead, body: bytes, request_id: bytes) -> bytes:
    """The request as it goes to a worker."""
    length = b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    start = (pool.post, head.target, b" HTTP/1.1\r\n", pool.host_line, head.onward)
    return b"".join((*start, b"x-request-id: ", request_id, length, body))


def returned(answer: ResponseHead, besides: frozenset[bytes]) -> tuple[bytes, int | None]:
    """The header lines that the client gets too, and the length of the body, if that is known."""
    lines, length = [], None
    for name, value in answer.headers:
        if name in besides:
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
        if name == b"content-length":
            length = int(value)
    return b"".join(lines), length
