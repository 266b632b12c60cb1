"""Does cutting a pool end what is under way, and only that, and does the pool forget what has ended?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.connection import UpstreamLost
from server.pool import Address, Exchange, UpstreamPool, fetch, request_bytes

ASK = request_bytes(Address(socket_path="x"), "POST", "/v1/completions", [], b"")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def answering(folder: Path, endings: list[bytes], use: Callable[[UpstreamPool], Awaitable[None]]) -> None:
    """A worker that gives each connection's requests these bodies, in turn, and hangs up where one is `b"!"`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = endings.pop(0)
                if body == b"!":
                    break
                writer.write(HEAD + body)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        path = str(folder / "worker.sock")
        connections: list[asyncio.Task[None]] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(asyncio.ensure_future(serve(reader, writer)))

        pool = UpstreamPool(Address(socket_path=path))
        async with await asyncio.start_unix_server(accept, path), asyncio.timeout(10):
            await use(pool)
            assert not pool.busy
            pool.close()
            await asyncio.gather(*connections)

    asyncio.run(main())


def test_a_cut_ends_an_answer_that_is_under_way(tmp_path: Path) -> None:
    async def use(pool: UpstreamPool) -> None:
        exchange = Exchange(pool)
        await exchange.start(ASK)
        reading = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0)
        assert pool.busy == 1
        pool.cut()
        with pytest.raises(UpstreamLost):
            await reading
        exchange.abort()

    answering(tmp_path, [b"h"], use)


def test_an_idle_connection_outlives_a_cut(tmp_path: Path) -> None:
    async def use(pool: UpstreamPool) -> None:
        assert await fetch(pool, "GET", "/") == (200, b"hi")
        pool.cut()
        idle = pool.take_idle()
        assert idle is not None
        pool.give_back(idle)

    answering(tmp_path, [b"hi"], use)


def test_a_connection_that_went_stale_is_forgotten(tmp_path: Path) -> None:
    async def use(pool: UpstreamPool) -> None:
        for _ in range(2):
            assert await fetch(pool, "GET", "/") == (200, b"hi")
            assert not pool.busy

    answering(tmp_path, [b"hi", b"!", b"hi"], use)
