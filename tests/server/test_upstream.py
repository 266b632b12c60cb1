"""Is a response read whole whatever its framing, and is a request sent again only when that is safe?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.connection import HIGH_WATER_BYTES, UpstreamLost
from server.pool import Address, Exchange, UpstreamPool, fetch, request_bytes

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = request_bytes(Address(socket_path="x"), "POST", "/v1/completions", [], b"{}")


def with_upstream(folder: Path, serve: Serve, client: Callable[[UpstreamPool], Awaitable[None]]) -> None:
    """Runs `client` against a worker that treats each connection with `serve`."""

    async def run() -> None:
        path = str(folder / "worker.sock")
        connections: list[asyncio.Task[None]] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(asyncio.ensure_future(serve(reader, writer)))

        server = await asyncio.start_unix_server(accept, path)
        pool = UpstreamPool(Address(socket_path=path))
        async with server, asyncio.timeout(10):
            await client(pool)
            pool.close()
            await asyncio.gather(*connections)

    asyncio.run(run())


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n{}")


def replying(*answers: bytes, seen: list[int] | None = None, then_close: bool = False) -> Serve:
    """A worker that answers each request of a connection with the next of `answers`, and notes it in `seen`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for index, answer in enumerate(answers):
                await read_request(reader)
                if seen is not None:
                    seen.append(index)
                writer.write(answer)
                await writer.drain()
            if not then_close:
                await reader.read()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    return serve


OK = b"HTTP/1.1 200 OK\r\n"
FRAMINGS = [
    (OK + b"Content-Length: 5\r\n\r\nhello", False, b"hello", True, "length"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", False, b"hello", True, "chunks"),
    (OK + b"\r\nhello", True, b"hello", False, "until the connection ends"),
    (OK + b"Content-Length: 0\r\n\r\n", False, b"", True, "nothing"),
    (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", True, b"hi", False, "closing"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", False, b"hi", True, "an interim answer"),
]


@pytest.mark.parametrize(("answer", "close", "body", "kept", "what"), FRAMINGS, ids=[f[-1] for f in FRAMINGS])
def test_framing(tmp_path: Path, answer: bytes, close: bool, body: bytes, kept: bool, what: str) -> None:
    async def client(pool: UpstreamPool) -> None:
        exchange = Exchange(pool)
        assert (await exchange.start(REQUEST)).status == 200
        assert await exchange.read() == body
        assert not exchange.has_body
        exchange.finish()
        idle = pool.take_idle()
        assert (idle is not None) == kept, what
        if idle is not None:
            idle.abort()

    with_upstream(tmp_path, replying(answer, then_close=close), client)


BROKEN = [
    (b"", "no answer at all"),
    (b"HTTP/1.1 200 O", "cut in the status line"),
    (OK + b"Content-Length: 5\r\n\r\nhel", "cut in the body"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "cut in a chunk"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "cut before the last chunk"),
    (b"SSH-2.0-OpenSSH\r\n", "another protocol"),
]


@pytest.mark.parametrize(("answer", "what"), BROKEN, ids=[what for _, what in BROKEN])
def test_a_broken_answer_is_never_taken_for_a_whole_one(tmp_path: Path, answer: bytes, what: str) -> None:
    async def client(pool: UpstreamPool) -> None:
        exchange = Exchange(pool)
        with pytest.raises(UpstreamLost):
            await exchange.start(REQUEST)
            await exchange.read()
        exchange.abort()

    with_upstream(tmp_path, replying(answer, then_close=True), client)


def test_a_connection_is_used_again(tmp_path: Path) -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    seen: list[int] = []

    async def client(pool: UpstreamPool) -> None:
        for _ in range(3):
            assert await fetch(pool, "POST", "/", b"{}") == (200, b"hi")

    with_upstream(tmp_path, replying(answer, answer, answer, seen=seen), client)
    assert seen == [0, 1, 2]


def test_a_stale_connection_is_replaced_once_and_unseen(tmp_path: Path) -> None:
    seen: list[int] = []

    async def client(pool: UpstreamPool) -> None:
        for _ in range(4):
            assert await fetch(pool, "POST", "/", b"{}") == (200, b"hi")

    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    with_upstream(tmp_path, replying(answer, b"", seen=seen, then_close=True), client)
    assert seen == [0, 1, 0, 1, 0, 1, 0]


def test_a_fresh_connection_without_answer_is_not_tried_again(tmp_path: Path) -> None:
    seen: list[int] = []

    async def client(pool: UpstreamPool) -> None:
        with pytest.raises(UpstreamLost):
            await Exchange(pool).start(REQUEST)

    with_upstream(tmp_path, replying(b"", seen=seen, then_close=True), client)
    assert seen == [0]


def test_an_aborted_exchange_is_not_tried_again(tmp_path: Path) -> None:
    seen: list[int] = []
    second = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Length: 2\r\n\r\nhi")
        seen.append(0)
        await read_request(reader)
        seen.append(1)
        second.set()
        assert await reader.read() == b""
        writer.close()

    async def client(pool: UpstreamPool) -> None:
        await fetch(pool, "POST", "/", b"{}")
        exchange = Exchange(pool)
        starting = asyncio.create_task(exchange.start(REQUEST))
        async with asyncio.timeout(5):
            await second.wait()
        exchange.abort()
        with pytest.raises(UpstreamLost):
            await starting

    with_upstream(tmp_path, serve, client)
    assert seen == [0, 1]


def test_an_unread_answer_stops_the_sender(tmp_path: Path) -> None:
    written: list[int] = []
    huge = 64 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % huge)
        try:
            for _ in range(huge >> 16):
                writer.write(b"x" * (1 << 16))
                await writer.drain()
                written.append(1 << 16)
        finally:
            writer.close()

    async def client(pool: UpstreamPool) -> None:
        exchange = Exchange(pool)
        await exchange.start(REQUEST)
        before = -1
        while before != len(written):
            before = len(written)
            await asyncio.sleep(0.05)
        assert HIGH_WATER_BYTES / 2 < sum(written) < 8 * HIGH_WATER_BYTES
        assert len(await exchange.read()) == huge
        exchange.finish()

    with_upstream(tmp_path, serve, client)


def test_nobody_listening_is_an_os_error(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(OSError, match="No such file"):
            await fetch(UpstreamPool(Address(socket_path=str(tmp_path / "none.sock"))), "GET", "/health")

    asyncio.run(run())


URLS = [
    ("http://host:81", Address(host="host", port=81), "host:81"),
    ("http://host", Address(host="host", port=80), "host:80"),
    ("unix:/run/vllm.sock", Address(socket_path="/run/vllm.sock"), "localhost"),
    ("http://host:81/v1", Address(host="host", port=81), "host:81"),
    ("http://host:81/proxy/v1/", Address(host="host", port=81, prefix="/proxy"), "host:81"),
]


@pytest.mark.parametrize(("url", "address", "authority"), URLS)
def test_address_of_url(url: str, address: Address, authority: str) -> None:
    assert Address.of_url(url) == address
    assert address.authority == authority


def test_request_bytes_are_exact() -> None:
    made = request_bytes(Address(host="h", port=1, prefix="/p"), "POST", "/v1/x?y=1", [(b"a", b"b")], b"{}")
    assert made == b"POST /p/v1/x?y=1 HTTP/1.1\r\nhost: h:1\r\na: b\r\ncontent-length: 2\r\n\r\n{}"
