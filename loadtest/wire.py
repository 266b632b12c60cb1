"""How does a request get on the wire and its answer off it? Bare sockets in greenlets, kept alive, never in the way.

Between a request and the end of its answer nothing happens here: the receiver reads for everybody.
"""

from __future__ import annotations

import socket
from time import perf_counter_ns
from urllib.parse import urlsplit

import gevent
from gevent import monkey
from gevent import socket as cooperative

from loadtest.exchange import Exchange, calendar_ahead_ns
from loadtest.reception import Receiver, stamp_arrivals

_IDLE_LIMIT_NS = 2 * 10**9  # common servers close idle connections after 5 s; a shorter idle one is surely still open
_WRITABLE = 2

_bare_socket = monkey.get_original("socket", "socket")


class StreamClient:
    """Sends completions to one server over as many connections as there are requests at once."""

    def __init__(self, url: str, timeout_s: float, api_key: str | None = None, path: str = "/v1/completions") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._target: tuple[int, tuple[str, int]] | None = None
        self._timeout_s = timeout_s
        self._receiver = Receiver()
        self._idle: list[tuple[int, socket.socket]] = []
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {parts.path}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: "
        ).encode()

    def send(self, body: bytes, scheduled_ns: int) -> Exchange:
        """Blocks until the answer has ended, failed or timed out. Never raises for what the server does."""
        exchange = Exchange(scheduled_ns)
        connection: socket.socket | None = None
        keep, ahead_ns = False, calendar_ahead_ns()
        try:
            with gevent.Timeout(self._timeout_s):
                connection = self._connection()
                _send_all(connection, b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
                exchange.sent_ns = perf_counter_ns()
                keep = self._receiver.receive(connection, exchange)
        except gevent.Timeout:
            exchange.failure = f"timeout: no complete answer within {self._timeout_s:g} s"
        except OSError as error:
            exchange.failure = f"{'connect' if connection is None else 'closed'}: {error}"
        finally:
            exchange.done_ns = perf_counter_ns()
            exchange.ahead_ns = (ahead_ns, calendar_ahead_ns())
            self._put_back(connection, keep)
        return exchange

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()
        self._receiver.close()

    def _connection(self) -> socket.socket:
        while self._idle:
            since_ns, connection = self._idle.pop()
            if perf_counter_ns() - since_ns < _IDLE_LIMIT_NS:
                return connection
            connection.close()
        if self._target is None:  # once: gevent looks names up in threads, and a thread's switch is late under load
            found = cooperative.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._target = (found[0][0], found[0][4])
        return _connect(*self._target)

    def _put_back(self, connection: socket.socket | None, keep: bool) -> None:
        if connection is None:
            return
        if keep:
            self._idle.append((perf_counter_ns(), connection))
        else:
            connection.close()


def _connect(family: int, address: tuple[str, int]) -> socket.socket:
    """A non-blocking socket of the kernel's own, connected while other greenlets run. Raises OSError."""
    connecting = cooperative.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting.connect(address)
        stamp_arrivals(connecting)
    except BaseException:
        connecting.close()
        raise
    connection: socket.socket = _bare_socket(family, socket.SOCK_STREAM, 0, connecting.detach())
    connection.setblocking(False)
    return connection


def _send_all(connection: socket.socket, data: bytes) -> None:
    """Raises OSError. What does not fit into the socket's buffer waits for room, in its greenlet alone."""
    while data:
        try:
            data = data[connection.send(data) :]
        except BlockingIOError:
            hub = gevent.get_hub()
            hub.wait(hub.loop.io(connection.fileno(), _WRITABLE))
