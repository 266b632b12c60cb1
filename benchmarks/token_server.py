"""What was really sent, and when? A server of evenly spaced tokens that keeps the time of every write.

    python -m benchmarks.token_server PORT TTFT_S ITL_S [JITTER_S]

One thread, one epoll, no framework: 20,000 tokens/s fit on one core. It waits in `select`, whose time-out is good to
microseconds where epoll's counts milliseconds. `/truth` answers with what was written since it was last asked; `/stall`
makes it do nothing for a second. With JITTER_S each gap is off by up to so much, evenly. A first token is timed from
when the kernel had the request: what passed until this process read it is part of what its client waited for.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import select
import socket
import struct
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.priority import served_first
from loadtest.reception import stamp_arrivals

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ENVELOPE = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1700000000, "model": "m"}
_IDLE_WAIT_S = 1.0
_READ_BYTES = 1 << 20
_STAMP = struct.Struct("@ll")  # of the kernel: seconds and nanoseconds
STALL_S = 1.0


def _chunk(payload: dict[str, Any] | str) -> bytes:
    data = b"data: %b\n\n" % (payload if isinstance(payload, str) else json.dumps(payload)).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _token(finish: str | None) -> bytes:
    choice = {"index": 0, "text": " the", "logprobs": None, "finish_reason": finish}
    return _chunk({**_ENVELOPE, "choices": [choice]})


_TOKEN, _LAST_TOKEN = _token(None), _token("length")


class _Stream:
    """One connection, and the answer that is under way on it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""
        self.unsent = b""
        self.arrived_s = self.last_s = 0.0
        self.tokens = self.asked = self.prompt = 0

    def write(self, data: bytes) -> None:
        """What the client is too slow for is kept and goes with the next write."""
        self.unsent += data
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.connection.send(self.unsent) :]

    def ending(self) -> bytes:
        usage = {"prompt_tokens": self.prompt, "completion_tokens": self.asked}
        usage["total_tokens"] = sum(usage.values())
        return _LAST_TOKEN + _chunk({**_ENVELOPE, "choices": [], "usage": usage}) + _chunk("[DONE]") + b"0\r\n\r\n"


class TokenServer:
    """Token k of an answer is due `ttft_s + k * itl_s` after the request was read, but for the jitter of each gap."""

    def __init__(self, port: int, ttft_s: float, itl_s: float, jitter_s: float = 0.0) -> None:
        self._jitter_s, self._random = jitter_s, random.Random(0)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._streams: dict[int, _Stream] = {}
        self._due: list[tuple[float, int]] = []
        self._ttft_s, self._itl_s = ttft_s, itl_s
        self._gaps_s: list[float] = []
        self._firsts_s: list[float] = []

    def serve(self) -> None:
        """For ever."""
        while True:
            self._write_due()
            wait_s = self._due[0][0] - perf_counter() if self._due else _IDLE_WAIT_S
            if wait_s > 0:
                select.select([self._poll], [], [], wait_s)
            for number, _ in self._poll.poll(0):
                self._accept() if number == self._listener.fileno() else self._read(number)

    def _write_due(self) -> None:
        now_s = perf_counter()
        while self._due and self._due[0][0] <= now_s:
            due_s, number = self._due[0]
            stream = self._streams.get(number)
            if stream is None:
                heapq.heappop(self._due)
                continue
            stream.tokens += 1
            ended = stream.tokens == stream.asked
            written_s = perf_counter()
            stream.write(stream.ending() if ended else _TOKEN)
            self._note(stream, written_s)
            if ended:
                heapq.heappop(self._due)
            else:
                gap_s = self._itl_s + self._random.uniform(-self._jitter_s, self._jitter_s)
                heapq.heapreplace(self._due, (due_s + gap_s, number))

    def _note(self, stream: _Stream, written_s: float) -> None:
        if stream.tokens == 1:
            self._firsts_s.append(written_s - stream.arrived_s)
        else:
            self._gaps_s.append(written_s - stream.last_s)
        stream.last_s = written_s

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamp_arrivals(connection)
        self._streams[connection.fileno()] = _Stream(connection)
        self._poll.register(connection, select.EPOLLIN)

    def _read(self, number: int) -> None:
        stream = self._streams[number]
        try:
            data, ancillary, _, _ = stream.connection.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_STAMP.size))
        except ConnectionError:
            data, ancillary = b"", []
        stream.arrived_s = _arrival_s(ancillary)
        stream.unread += data
        head, separator, body = stream.unread.partition(b"\r\n\r\n")
        if not data:
            del self._streams[number]
            stream.connection.close()
        elif separator and len(body) >= _content_length(head):
            stream.unread = b""
            self._answer(stream, head, body)

    def _answer(self, stream: _Stream, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST"):
            content = self._page(head.split()[1])
            stream.connection.setblocking(True)  # nobody streams while the benchmark asks for the truth
            stream.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
            stream.connection.setblocking(False)
            return
        asked = json.loads(body)
        stream.tokens, stream.asked, stream.prompt = 0, asked["max_tokens"], len(asked["prompt"])
        stream.write(_HEAD)
        heapq.heappush(self._due, (perf_counter() + self._ttft_s, stream.connection.fileno()))

    def _page(self, path: bytes) -> bytes:
        if path == b"/stall":
            time.sleep(STALL_S)
        if path == b"/truth":
            truth = {"gaps_s": self._gaps_s, "firsts_s": self._firsts_s}
            self._gaps_s, self._firsts_s = [], []
            return json.dumps(truth).encode()
        return json.dumps({"data": [{"id": "m"}]}).encode()


def _arrival_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """On `perf_counter`; now, where the kernel does not say."""
    now_s = perf_counter()
    if not ancillary:
        return now_s
    seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
    return now_s - (time.time() - seconds - nanoseconds / 1e9)


def _content_length(head: bytes) -> int:
    lines = (line.partition(b":") for line in head.lower().splitlines())
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


def main(arguments: list[str]) -> None:
    port, *times_s = arguments
    with served_first():
        TokenServer(int(port), *map(float, times_s)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
