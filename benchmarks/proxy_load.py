"""The load that measures a proxy: idle requests, short requests, and many streams; and the processor time it takes."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processor_time import processor_ns
from server.connection import UpstreamLost
from server.pool import Address, Exchange, UpstreamPool, request_bytes

IDLE_REQUESTS = 300
SHORT_CLIENTS, SHORT_REQUESTS = 8, 300
STREAMS, TOKENS, ITL_S = 64, 500, 0.010
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """None where the load did not finish in time."""

    ttft_idle_ms: float | None = None
    cpu_us_per_request: float | None = None
    cpu_us_per_token: float | None = None
    ttft_loaded_ms: float | None = None
    tokens_per_s: float | None = None
    tokens_per_read: float | None = None


@dataclass(slots=True)
class Seen:
    """What the client saw of one load."""

    wall_s: float = 0.0
    reads: int = 0
    ttft_s: list[float] = field(default_factory=list)

    @property
    def ttft_ms(self) -> float:
        return statistics.median(self.ttft_s) * 1e3


async def measure_arm(address: Address, pid: int | None, key: str | None) -> Measured:
    """`pid` is the proxy's; without one no processor time is read."""
    pool = UpstreamPool(address)
    headers = [(b"content-type", b"application/json")]
    headers += [(b"authorization", b"Bearer " + key.encode())] if key else []
    await until_ready(pool, headers)
    await in_time(load(pool, headers, SHORT_CLIENTS, 1, 100))
    await in_time(load(pool, headers, STREAMS, 50, 1))
    idle = await in_time(load(pool, headers, 1, 1, IDLE_REQUESTS))
    before_s = cpu_s(pid)
    short = await in_time(load(pool, headers, SHORT_CLIENTS, 1, SHORT_REQUESTS))
    request_us = (cpu_s(pid) - before_s) / (SHORT_CLIENTS * SHORT_REQUESTS) * 1e6
    before_s = cpu_s(pid)
    streams = await in_time(load(pool, headers, STREAMS, TOKENS, 1))
    token_us = ((cpu_s(pid) - before_s) * 1e6 - request_us * STREAMS) / (STREAMS * TOKENS)
    pool.close()
    return Measured(
        ttft_idle_ms=idle.ttft_ms if idle else None,
        cpu_us_per_request=request_us if short and pid else None,
        cpu_us_per_token=token_us if streams and short and pid else None,
        ttft_loaded_ms=streams.ttft_ms if streams else None,
        tokens_per_s=STREAMS * TOKENS / streams.wall_s if streams else None,
        tokens_per_read=STREAMS * TOKENS / streams.reads if streams else None,
    )


async def until_ready(pool: UpstreamPool, headers: list[tuple[bytes, bytes]]) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        try:
            await load(pool, headers, 1, 1, 1)
            return
        except (OSError, UpstreamLost):
            await asyncio.sleep(0.2)
    raise SystemExit("the proxy did not become ready")


async def in_time(loading: Awaitable[Seen]) -> Seen | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await loading
    except (TimeoutError, UpstreamLost):
        return None


async def load(
    pool: UpstreamPool, headers: list[tuple[bytes, bytes]], clients: int, tokens: int, requests: int
) -> Seen:
    """`clients` at the same time, each `requests` streams of `tokens` one after the other. Raises UpstreamLost."""
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": tokens, "stream": True}).encode()
    request = request_bytes(pool.address, "POST", "/v1/completions", headers, body)
    seen = Seen()

    async def client(number: int) -> None:
        await asyncio.sleep(number * ITL_S / clients)
        for _ in range(requests):
            await one_stream(pool, request, seen)

    began_s = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    seen.wall_s = time.perf_counter() - began_s
    return seen


async def one_stream(pool: UpstreamPool, request: bytes, seen: Seen) -> None:
    exchange, sent_s = Exchange(pool), time.perf_counter()
    first_s: list[float] = []

    def note(piece: bytes, last: bool) -> None:
        if not first_s:
            first_s.append(time.perf_counter())
        seen.reads += 1

    try:
        head = await exchange.start(request)
        await exchange.relay(note)
        exchange.finish()
    finally:
        exchange.abort()
    if head.status != 200:
        raise UpstreamLost(f"status {head.status}")
    seen.ttft_s.append(first_s[0] - sent_s)


def cpu_s(pid: int | None) -> float:
    """Of all threads of the process and of those below it, in nanosecond steps."""
    if pid is None:
        return 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return processor_ns(pid) / 1e9 + sum(cpu_s(int(child)) for child in children)
