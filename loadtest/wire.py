"""How does a request get on the wire and its answer off it with honest times? Raw gevent sockets, kept alive.

Every layer between `recv` and the clock delays the clock for all streams of the process. So the loop is: receive, read
the clock, keep both, and let a C parser say whether the answer is complete. Nothing else happens until all streams of
a segment have ended.
"""

from __future__ import annotations

from time import perf_counter_ns
from urllib.parse import urlsplit

import gevent
import httptools
from gevent import socket

from loadtest.exchange import Exchange

_READ_BYTES = 1 << 16
_IDLE_LIMIT_NS = 2 * 10**9  # common servers close idle connections after 5 s; a shorter idle one is surely still open


class _Ending:
    """Knows when an answer is complete, and whether the connection outlives it (the parser forgets that at once)."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.reached = self.keeps_alive = False

    def on_message_complete(self) -> None:
        self.reached, self.keeps_alive = True, bool(self.parser.should_keep_alive())


class StreamClient:
    """Sends completions to one server over as many connections as there are requests at once."""

    def __init__(self, url: str, timeout_s: float, api_key: str | None = None, path: str = "/v1/completions") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._target: tuple[int, tuple[str, int]] | None = None
        self._timeout_s = timeout_s
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
        keep = False
        try:
            with gevent.Timeout(self._timeout_s):
                connection = self._connection()
                connection.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
                exchange.sent_ns = perf_counter_ns()
                keep = _receive(connection, exchange)
        except gevent.Timeout:
            exchange.failure = f"timeout: no complete answer within {self._timeout_s:g} s"
        except OSError as error:
            exchange.failure = f"{'connect' if connection is None else 'closed'}: {error}"
        finally:
            exchange.done_ns = perf_counter_ns()
            self._put_back(connection, keep)
        return exchange

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _connection(self) -> socket.socket:
        while self._idle:
            since_ns, connection = self._idle.pop()
            if perf_counter_ns() - since_ns < _IDLE_LIMIT_NS:
                return connection
            connection.close()
        if self._target is None:  # once: gevent looks names up in threads, and a thread's switch is late under load
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._target = (found[0][0], found[0][4])
        connection = socket.socket(self._target[0], socket.SOCK_STREAM)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(self._target[1])
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_back(self, connection: socket.socket | None, keep: bool) -> None:
        if connection is None:
            return
        if keep:
            self._idle.append((perf_counter_ns(), connection))
        else:
            connection.close()


def _receive(connection: socket.socket, exchange: Exchange) -> bool:
    """Fills `exchange.reads`; True if the connection can carry another request."""
    ending = _Ending()
    while not ending.reached:
        data = connection.recv(_READ_BYTES)
        now_ns = perf_counter_ns()
        if not data:
            if not exchange.reads:
                exchange.failure = "closed: the server closed the connection before it answered"
            return False
        exchange.reads.append((now_ns, data))
        try:
            ending.parser.feed_data(data)
        except httptools.HttpParserError:
            return False  # what came is kept; the parser that runs later names the fault
    return ending.keeps_alive
