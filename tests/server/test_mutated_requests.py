"""Ten thousand damaged requests: no failure of the gateway's own, no hang, nothing left open.

The gateway runs inside the test, so that its tasks and file descriptors can be counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifacts.fleet import Fleet
from server.gateway import Gateway
from server.lifecycle import Lifecycle
from server.metrics import GatewayMetrics
from server.registry import Registry
from server.serve import Endpoint
from server.simulator import Simulation, SimulatorProtocol

REQUESTS, CLIENTS, SEED = 10_000, 8, 20261122
BODIES = [
    {"model": "m", "prompt": "Once", "max_tokens": 3, "temperature": 0},
    {"model": "m", "prompt": [1, 2, 3], "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}},
    {"model": "m", "messages": [{"role": "user", "content": "ä\U0001f600"}], "max_tokens": 2, "logprobs": True},
]
PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/unknown")
JUNK = (b"\x00", b"\xff", b'"', b"{", b"[" * 50, b"}", b"\\u0000", b"\\ud800", b"1e999", b"null", b"NaN", b"\r\n", b":")
SMALL = (None, True, -1, 0, "", "x" * 5000, [], {}, [[]], {"a": {}}, "\x00")
# As a number of tokens these would be a wish, not a mistake.
VALUES = (*SMALL, 1e308, 10**30)


def damaged(draw: random.Random) -> bytes:
    """A body with no mistake, or up to five, among the JSON and among the bytes."""
    fields = dict(draw.choice(BODIES))
    if draw.random() < 0.4:
        name = draw.choice([*fields, "n", "stop", "extra"])
        fields[name] = draw.choice(SMALL if name == "max_tokens" else VALUES)
    if draw.random() < 0.2:
        fields.pop(draw.choice(list(fields)))
    body = bytearray(json.dumps(fields).encode())
    for _ in range(draw.choice((0, 0, 1, 1, 2, 3))):
        at = draw.randrange(len(body) + 1)
        cut = at + draw.choice((0, 0, 1, 5, len(body)))
        body[at:cut] = draw.choice(JUNK)
    return bytes(body)


def request_of(draw: random.Random) -> bytes:
    """Mostly well-framed; a few with a length that is wrong."""
    body = damaged(draw)
    length = len(body) if draw.random() < 0.98 else max(0, len(body) + draw.choice((-7, -1)))
    path = draw.choice(PATHS)
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Answer:
    """Status and body of one answer; `own` if the gateway gave it and not the worker."""

    status: int = 0
    body: bytes = b""
    own: bool = False


async def answer_to(reader: asyncio.StreamReader) -> Answer:
    """Raises IncompleteReadError if the connection ends before the answer does."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, own = int(head.split(b" ", 2)[1]), b"x-prunebench-variant" not in head
    if b"transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return Answer(status, body, own)
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return Answer(status, await reader.readexactly(int(length)), own)


async def client(port: int, draw: random.Random, requests: int, seen: Counter[int]) -> None:
    """Sends one request after the other; a framing mistake costs the connection, and so a new one is made."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(requests):
        writer.write(request_of(draw))
        try:
            answer = await asyncio.wait_for(answer_to(reader), 20)
        except (asyncio.IncompleteReadError, ConnectionError):
            answer = Answer()
        seen[answer.status] += 1
        if answer.own and answer.status >= 400:
            assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}, answer
        if answer.status != 200:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def in_gateway(folder: Path, use: Callable[[int], Awaitable[None]]) -> tuple[int, int]:
    """Runs `use` with a gateway's port; returns how many tasks and descriptors there are more than before."""

    async def run() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        simulation = Simulation("m", 0.0, 0.0)
        path = f"{folder}/m.sock"
        worker = await loop.create_unix_server(lambda: SimulatorProtocol(simulation, loop), path)
        registry = Registry(Fleet.parse({"variants": [{"name": "m", "engine": "sim"}]}, "the fleet"), str(folder))
        for variant in registry:
            variant.lifecycle = Lifecycle(state="ready")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            endpoint = Endpoint(Gateway(registry, GatewayMetrics(registry)), listener, lambda: registry.fleet)
            await use(listener.getsockname()[1])
            before = await _settled(variant.pool.close)
            await use(listener.getsockname()[1])
            after = await _settled(variant.pool.close)
            await endpoint.drain(5)
        worker.close()
        assert (registry.held, variant.gate.in_flight, simulation.running) == (0, 0, 0)
        return after[0] - before[0], after[1] - before[1]

    return asyncio.run(run())


async def _settled(close_idle: Callable[[], None]) -> tuple[int, int]:
    """Tasks and descriptors once connections that were closed are gone."""
    close_idle()
    await asyncio.sleep(0.2)
    return len(asyncio.all_tasks()), _descriptors()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.timeout(120)
def test_ten_thousand_damaged_requests(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()

    async def use(port: int) -> None:
        draws = [random.Random(SEED + number) for number in range(CLIENTS)]
        async with asyncio.timeout(100):
            await asyncio.gather(*(client(port, draw, REQUESTS // CLIENTS // 2, seen) for draw in draws))

    assert in_gateway(tmp_path, use) == (0, 0)
    assert seen.total() == REQUESTS
    assert max(seen) < 500, seen
    assert seen[200] > REQUESTS / 20, "some mistakes are none"
    assert seen[400] > REQUESTS / 10
    assert seen[0] < REQUESTS / 20, "only a wrong length may cost the connection"
