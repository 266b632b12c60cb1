"""A wire between a gateway and its worker that keeps every byte that passes, request by request."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httptools import HttpRequestParser, HttpResponseParser


@dataclass
class Exchange:
    """A request and its answer as they were on the wire, less their framing."""

    url: bytes = b""
    asked: bytes = b""
    status: int = 0
    answered: bytes = b""


class _Half:
    """Feeds one direction of a connection to a parser, and its bodies to the exchange that is under way there."""

    def __init__(self, line: _Line, *, requests: bool) -> None:
        self._line = line
        self._requests = requests
        self._parser: Any = HttpRequestParser(self) if requests else HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._line.begin(url)

    def on_body(self, body: bytes) -> None:
        if self._requests:
            self._line.now.asked += body
        else:
            self._line.now.answered += body

    def on_message_complete(self) -> None:
        if not self._requests:
            self._line.now.status = self._parser.get_status_code()


class _Line:
    """One connection: its exchanges follow each other."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._exchanges = exchanges
        self.now = Exchange()

    def begin(self, url: bytes) -> None:
        self.now = Exchange(url)
        self._exchanges.append(self.now)


class Tape(socketserver.ThreadingUnixStreamServer):
    """Listens at `path` and hands everything on to the socket at `worker`."""

    daemon_threads = True

    def __init__(self, path: Path, worker: str) -> None:
        self.worker = worker
        self.exchanges: list[Exchange] = []
        super().__init__(str(path), _Pump)

    @property
    def last(self) -> Exchange:
        """The last exchange under /v1; probes of health are not meant."""
        return [each for each in self.exchanges if each.url.startswith(b"/v1/")][-1]


class _Pump(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server: Tape = self.server  # type: ignore[assignment]
        line = _Line(server.exchanges)
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(server.worker)
            back = threading.Thread(target=_pump, args=(worker, self.request, _Half(line, requests=False)))
            back.start()
            _pump(self.request, worker, _Half(line, requests=True))
            back.join()


def _pump(source: socket.socket, sink: socket.socket, half: _Half) -> None:
    try:
        while data := source.recv(1 << 16):
            half.feed(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()


@contextmanager
def taped(path: Path, worker: str) -> Iterator[Tape]:
    """A tape that runs while the block does."""
    with Tape(path, worker) as tape:
        threading.Thread(target=tape.serve_forever, args=(0.05,), daemon=True).start()
        yield tape
        tape.shutdown()
