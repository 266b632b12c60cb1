"""Does a client get the worker's bytes in order and exactly, at its own pace, and does the worker learn of its end?"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from pathlib import Path

import pytest
from opened_gateway import EVENTS, PLAIN, Exchange, Opened, Peer, ask, chunk, flooding, opened, run, until

from server.connection import HIGH_WATER_BYTES

LENGTHY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
BINARY = random.Random(0).randbytes(300_000)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


PIECES = [
    [b"x"],
    [b"data: 1\n\n", b"data: 2\n\n"],
    cut(BINARY[:5000], 1),
    cut(BINARY, 1000),
    [BINARY],
    [b"\r\n0\r\n\r\n"] * 5,
]


@pytest.mark.parametrize("counted", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize("pieces", PIECES, ids=["byte", "events", "single bytes", "many", "large", "like framing"])
def test_a_body_is_exact_in_either_framing(tmp_path: Path, pieces: list[bytes], counted: bool) -> None:
    whole = b"".join(pieces)

    async def answer(exchange: Exchange) -> None:
        if counted:
            await exchange.say(LENGTHY % len(whole), *pieces)
        else:
            await exchange.say(EVENTS, *map(chunk, pieces), b"0\r\n\r\n")

    async def test() -> None:
        async with opened(tmp_path, answer) as gateway:
            peer = await gateway.connect()
            for _ in range(3):
                await peer.send(ask())
                found = await peer.answer()
                assert (found.status, found.body) == (200, whole)
                assert found.headers.get("content-length") == (str(len(whole)) if counted else None)
                assert found.headers.get("transfer-encoding") == (None if counted else "chunked")
            assert [request.code for request in gateway.observed] == [200] * 3

    run(test())


def test_a_body_that_ends_with_the_connection_gets_a_framing_of_its_own(tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\n\r\n", b"one ", b"two")
        exchange.writer.close()

    async def test() -> None:
        async with opened(tmp_path, answer) as gateway:
            peer = await gateway.connect()
            for _ in range(2):
                await peer.send(ask())
                assert (await peer.answer()).body == b"one two"

    run(test())


@pytest.mark.parametrize("first_slow", [True, False])
def test_pipelined_requests_are_answered_in_order_with_their_own_framing(tmp_path: Path, first_slow: bool) -> None:
    """Each answer is made of its own request's number; framings alternate; the first may take longest."""

    async def answer(exchange: Exchange) -> None:
        number = int(exchange.request.rpartition(b'"prompt": "')[2].partition(b'"')[0])
        if (number == 0) == first_slow:
            await asyncio.sleep(0.05)
        body = b"answer %d " % number * (number + 1)
        if number % 2:
            await exchange.say(EVENTS, *(chunk(piece) for piece in cut(body, 7)), b"0\r\n\r\n")
        else:
            await exchange.say(LENGTHY % len(body), body)

    async def test() -> None:
        async with opened(tmp_path, answer) as gateway:
            peer = await gateway.connect()
            bodies = [b'{"model": "a", "prompt": "%d"}' % number for number in range(8)]
            await peer.send(b"".join(ask(body) for body in bodies))
            for number in range(8):
                found = await peer.answer()
                assert found.body == b"answer %d " % number * (number + 1)
                assert ("content-length" in found.headers) == (number % 2 == 0)
            assert [request.rpartition(b"\r\n\r\n")[2] for request in gateway.requests] == bodies

    run(test())


def test_refusals_and_the_control_plane_keep_their_place_in_a_pipeline(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            others = ask(b"no json") + ask(b"", path="/health", method="GET") + ask(b'{"model": "none"}')
            await peer.send(ask() + others + ask())
            assert [(await peer.answer()).status for _ in range(5)] == [200, 400, 200, 404, 200]

    run(test())


ENDLESS_BYTES = 48 << 20


async def _small_peer(gateway: Opened) -> Peer:
    """A client that has not begun to read."""
    peer = await gateway.connect()
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await peer.send(ask())
    return peer


def _backlog_bytes(gateway: Opened) -> int:
    return sum(c.transport.get_write_buffer_size() for c in gateway.endpoint.server_state.connections)


def test_a_client_that_does_not_read_stops_the_worker_and_little_piles_up(tmp_path: Path) -> None:
    said, most = [0], [0]

    async def flood(exchange: Exchange) -> None:
        piece = bytes(range(256)) * 256
        await exchange.say(EVENTS)
        for _ in range(ENDLESS_BYTES // len(piece)):
            await exchange.say(chunk(piece))
            said[0] += len(piece)
        await exchange.say(b"0\r\n\r\n")

    async def until_nothing_moves(gateway: Opened) -> int:
        before = -1
        while before != said[0]:
            before = said[0]
            await asyncio.sleep(0.1)
            most[0] = max(most[0], _backlog_bytes(gateway))
        return before

    async def test() -> None:
        async with opened(tmp_path, flood) as gateway:
            peer = await _small_peer(gateway)
            await until(lambda: said[0])
            stopped_at = await until_nothing_moves(gateway)
            assert 0 < stopped_at < ENDLESS_BYTES / 4
            assert 0 < most[0] <= 2 * HIGH_WATER_BYTES
            (connection,) = gateway.endpoint.server_state.connections
            assert connection.flow.write_paused
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            digest = hashlib.sha256((await peer.answer()).body).digest()
            assert said[0] == ENDLESS_BYTES
            assert digest == hashlib.sha256(bytes(range(256)) * (ENDLESS_BYTES // 256)).digest()

    run(test())


def test_a_client_that_leaves_without_reading_ends_the_worker(tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def test() -> None:
        async with opened(tmp_path, flooding(closed)) as gateway:
            peer = await _small_peer(gateway)
            await until(lambda: _backlog_bytes(gateway))
            peer.writer.transport.abort()
            await closed.wait()
            await until(lambda: gateway.observed)
            assert gateway.observed[0].code == 499

    run(test())


def test_a_request_leaves_no_garbage(tmp_path: Path) -> None:
    """What only a collection can free is freed in a pause of all streams."""

    async def asked(peer: Peer, times: int) -> int:
        """How many objects only a collection could free afterwards."""
        gc.collect()
        gc.disable()
        for _ in range(times):
            await peer.send(ask())
            await peer.answer()
        left = gc.collect()
        gc.enable()
        return left

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            await asked(peer, 5)
            assert await asked(peer, 50) < 50

    run(test())


def test_plain_answers_need_no_second_read(tmp_path: Path) -> None:
    """Head and body in one read of the worker's socket are one answer all the same."""

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            assert (await gateway.asked(ask())).body == PLAIN[-2:]

    run(test())
