"""When did each piece of an answer arrive? Said by the kernel, read by the event loop itself, understood later.

A client that asks a clock after `recv` measures when it was woken and reached that stream: beside a busy engine, or
behind two hundred other streams, that is milliseconds late, and unevenly so. The kernel stamps what it receives
(SO_TIMESTAMPNS); the stamp comes with the data, so a read may be late without its time being so.

That allows the other economy: what costs most is not reading but being woken (some 20 us on a virtual machine, against
8 us for a read). So under dense traffic the loop waits a moment after a wake-up and then reads all that has come,
without switching to any greenlet before its answer has ended. Sparse traffic is read at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import gevent
import httptools
from gevent import monkey

from loadtest.exchange import Exchange

_READ_BYTES = 1 << 14
_ANCILLARY_BYTES = socket.CMSG_SPACE(16)
_SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)  # Linux; Python 3.11 has no name for it
_READABLE = 1
_MOMENT_S = 0.0004  # that much later may a request be sent
_DENSE_NS = 300_000  # per read
_END = b"\r\n\r\n"

_new_poll = monkey.get_original("select", "epoll")
_pause = monkey.get_original("time", "sleep")


class Receiver:
    """Reads for all connections of a client. `readers` by file number; each reads once, without blocking."""

    def __init__(self) -> None:
        self._poll = _new_poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._hub = gevent.get_hub()
        self._watcher: Any = self._hub.loop.io(self._poll.fileno(), _READABLE)
        self._last_ns = 0

    def receive(self, connection: socket.socket, exchange: Exchange) -> bool:
        """Fills the exchange; True if the connection can carry another request.

        Blocks this greenlet until the answer has ended. Raises OSError for a connection that broke.
        """
        number, ending, waiter = connection.fileno(), _Ending(), gevent.hub.Waiter(self._hub)
        if not self._readers:
            self._watcher.start(self._collect)
        self._readers[number] = _reader(connection, exchange, ending, waiter.switch)
        self._poll.register(number, _READABLE)
        try:
            failure = waiter.get()
        finally:
            self._poll.unregister(number)
            del self._readers[number]
            if not self._readers:
                self._watcher.stop()
        if failure is not None:
            raise failure
        return ending.keeps_alive

    def close(self) -> None:
        self._watcher.close()
        self._poll.close()

    def _collect(self) -> None:
        readers, ready = self._readers, self._poll.poll(0)
        for number, _ in ready:
            if number in readers:  # what was read before may have ended and closed others
                readers[number]()
        now_ns = perf_counter_ns()
        if len(ready) * _DENSE_NS > now_ns - self._last_ns:
            _pause(_MOMENT_S)
        self._last_ns = now_ns


def stamp_arrivals(connection: socket.socket) -> None:
    """Asks the kernel for the time of arrival; where it cannot tell, a read is timed by the clock."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return


class _Ending:
    """Knows when an answer is complete, and whether the connection outlives it (the parser forgets that at once).

    A chunked body can end only where an empty line is the last thing that came, so between its head and such a place
    the parser need not look. Any other body is looked at read by read.
    """

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.reached = self.keeps_alive = self.chunked = False
        self._seen = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"transfer-encoding" and b"chunked" in value.lower():
            self.chunked = True

    def on_message_complete(self) -> None:
        self.reached, self.keeps_alive = True, bool(self.parser.should_keep_alive())

    def look(self, reads: list[tuple[Any, bytes]]) -> bool:
        """Parses what is new; True if there is nothing more to wait for, be it that the bytes are no HTTP."""
        try:
            for _, piece in reads[self._seen :]:
                self.parser.feed_data(piece)
        except httptools.HttpParserError:
            return True  # what came is kept; the parser that runs later names the fault
        self._seen = len(reads)
        return self.reached


def _reader(
    connection: socket.socket, exchange: Exchange, ending: _Ending, end: Callable[[OSError | None], object]
) -> Callable[[], None]:
    """What runs for every read, with all that it needs at hand: twenty thousand times a second."""
    receive, reads, clock = connection.recvmsg, exchange.reads, perf_counter_ns
    note, look = reads.append, ending.look

    def read() -> None:
        try:
            data, ancillary, _, _ = receive(_READ_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            end(error)
            return
        if data:
            note((ancillary[0][2] if ancillary else clock(), data))
            if (data[-4:] == _END or len(data) < 4 or not ending.chunked) and look(reads):
                end(None)
        else:
            if not reads:
                exchange.failure = "closed: the server closed the connection before it answered"
            end(None)

    return read
