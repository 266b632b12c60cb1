"""What would a perfectly regular engine look like? A worker whose time to first token and token gaps are known.

Token k of a request leaves `ttft + k x gap` after its last byte arrived, on an absolute schedule, so that errors do not
add up. With `--max-streams` only so many requests are answered at once and the others wait in order of arrival, their
schedule beginning when their turn comes: a server of exactly known capacity, N / (ttft + (tokens - 1) x gap). Stands in
for vLLM in tests and calibrates load clients. One protocol class on uvloop, no framework.

`python -m server.simulator (--uds SOCK | --port N) --served-model-name NAME [--ttft-ms X] [--itl-ms X]
[--jitter X] [--max-streams N] [--fail-after-tokens N] [--log-mib N]`. With jitter each request's gaps are stretched
by a factor of its own, whose logarithm has the standard deviation X. The last two are faults: exit with status 1 after
N tokens in all, write so much to the log as fast as it is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import uvloop
from httptools import HttpParserError, HttpRequestParser, parse_url

from server.simulated import BadRequest, Completion

_COMPLETIONS = {b"/v1/completions": False, b"/v1/chat/completions": True}
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Simulation:
    """What is simulated, and what has happened so far."""

    name: str
    ttft_s: float
    itl_s: float
    fail_after_tokens: int | None = None
    jitter: float = 0.0
    max_streams: int | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    finished: int = 0
    running: int = 0
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def admit(self, begin: Callable[[], None]) -> None:
        """Calls `begin` now, or when a place is free."""
        if self.max_streams is not None and self.running >= self.max_streams:
            self.waiting.append(begin)
        else:
            self.running += 1
            begin()

    def leave(self) -> None:
        """Frees a place for whoever waits longest."""
        self.running -= 1
        if self.waiting:
            self.admit(self.waiting.popleft())

    def count_token(self) -> None:
        self.tokens += 1
        if self.fail_after_tokens is not None and self.tokens > self.fail_after_tokens:
            sys.stderr.write("SimulatedError: the token limit of --fail-after-tokens is reached\n")
            sys.stderr.flush()
            os._exit(1)

    def metrics(self) -> bytes:
        """The few names of vLLM's that dashboards and load tests read first."""
        label = f'{{engine="0",model_name="{self.name}"}}'
        samples = (
            ("num_requests_running", "gauge", "Requests being answered.", "", self.running),
            ("num_requests_waiting", "gauge", "Requests waiting.", "", len(self.waiting)),
            ("prompt_tokens", "counter", "Prompt tokens processed.", "_total", self.prompt_tokens),
            ("generation_tokens", "counter", "Tokens generated.", "_total", self.tokens),
            ("num_preemptions", "counter", "Preemptions.", "_total", 0),
            ("prefix_cache_hits", "counter", "Cached prompt tokens.", "_total", 0),
        )
        lines = []
        for name, kind, about, suffix, value in samples:
            lines += [f"# HELP vllm:{name}{suffix} {about}", f"# TYPE vllm:{name}{suffix} {kind}"]
            lines += [f"vllm:{name}{suffix}{label} {float(value)}"]
        return ("\n".join(lines) + "\n").encode()


class SimulatorProtocol(asyncio.Protocol):
    """One client connection."""

    def __init__(self, simulation: Simulation, loop: asyncio.AbstractEventLoop) -> None:
        self._simulation = simulation
        self._loop = loop
        self._parser: Any = HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits: Callable[[], None] | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._stretch = 1.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waits is not None:
            self._simulation.waiting.remove(self._waits)
            self._waits = None
        if self._timer is not None:
            self._end_request()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path = parse_url(self._url).path
        try:
            if path in _COMPLETIONS and self._parser.get_method() == b"POST":
                self._enter(
                    Completion.parse(b"".join(self._body), chat=_COMPLETIONS[path], served=self._simulation.name)
                )
            else:
                self._answer(*self._page(path))
        except BadRequest as error:
            self._answer(error.status, _JSON, error.body)

    def _page(self, path: bytes) -> tuple[int, bytes, bytes]:
        if path == b"/health":
            return 200, _JSON, b""
        if path == b"/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", self._simulation.metrics()
        if path == b"/v1/models":
            return (
                200,
                _JSON,
                b'{"object":"list","data":[{"id":"%s","object":"model"}]}' % self._simulation.name.encode(),
            )
        return 404, _JSON, b'{"detail":"Not Found"}'

    def _enter(self, completion: Completion) -> None:
        def begin() -> None:
            self._waits = None
            self._begin(completion)

        self._waits = begin
        self._simulation.admit(begin)

    def _begin(self, completion: Completion) -> None:
        began_s = self._loop.time()
        self._stretch = random.lognormvariate(0.0, self._simulation.jitter)
        self._simulation.prompt_tokens += completion.prompt_tokens
        if completion.stream:
            self._write(_head(200, _EVENTS, b"transfer-encoding: chunked"))
        self._schedule(completion, 0, began_s)

    def _schedule(self, completion: Completion, index: int, began_s: float) -> None:
        due_s = began_s + self._simulation.ttft_s + index * self._simulation.itl_s * self._stretch
        self._timer = self._loop.call_at(due_s, self._emit, completion, index, began_s)

    def _emit(self, completion: Completion, index: int, began_s: float) -> None:
        self._simulation.count_token()
        last = index == completion.output_tokens - 1
        if completion.stream:
            self._write_token(completion, index, last)
        if not last:
            self._schedule(completion, index + 1, began_s)
            return
        self._end_request()
        self._simulation.finished += 1
        if not completion.stream:
            self._answer(200, _JSON, completion.whole())

    def _write_token(self, completion: Completion, index: int, last: bool) -> None:
        events = completion.token_event(index)
        if index == 0:
            events = completion.opening_event() + events
        end = b""
        if last:
            events, end = events + completion.closing_events(), b"0\r\n\r\n"
        self._write(b"%x\r\n%b\r\n%b" % (len(events), events, end))

    def _end_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._simulation.leave()

    def _answer(self, status: int, kind: bytes, body: bytes) -> None:
        self._write(_head(status, kind, b"content-length: %d" % len(body)) + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _head(status: int, kind: bytes, framing: bytes) -> bytes:
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b\r\n\r\n" % (status, phrase, kind, framing)


async def simulate(simulation: Simulation, socket_path: str | None, port: int | None) -> None:
    """Serves until cancelled."""
    loop = asyncio.get_running_loop()

    def protocol() -> SimulatorProtocol:
        return SimulatorProtocol(simulation, loop)

    if socket_path is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(socket_path)  # fails, as vLLM does, where a killed predecessor left its socket
        server = await loop.create_unix_server(protocol, sock=listener)
    else:
        server = await loop.create_server(protocol, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def flood_log(mib: int) -> None:
    line = b"INFO the same line again and again".ljust(1023) + b"\n"
    for _ in range(mib << 10):
        os.write(2, line)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m server.simulator", description="A regular stand-in for vLLM.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", help="Unix socket to listen on")
    where.add_argument("--port", type=int, help="TCP port on 127.0.0.1 to listen on")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--ttft-ms", type=float, default=1.0)
    parser.add_argument("--itl-ms", type=float, default=1.0)
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--max-streams", type=int, help="answer only so many requests at once, the others wait")
    parser.add_argument("--fail-after-tokens", type=int)
    parser.add_argument("--log-mib", type=int, default=0)
    asked = parser.parse_args(arguments)
    threading.Thread(target=flood_log, args=(asked.log_mib,), daemon=True).start()
    simulation = Simulation(
        asked.served_model_name,
        asked.ttft_ms / 1e3,
        asked.itl_ms / 1e3,
        asked.fail_after_tokens,
        asked.jitter,
        asked.max_streams,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(simulate(simulation, asked.uds, asked.port))


if __name__ == "__main__":
    main(sys.argv[1:])
