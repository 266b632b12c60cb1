"""Does a client get the worker's bytes in order and exactly, at its own pace, and does the worker learn of its end?

Over real sockets where bytes and pace matter; with a transport that only notes what it is told where a callback does.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from opened_gateway import BODY, EVENTS, PLAIN, Exchange, Opened, Peer, ask, chunk, flooding, opened, run, until
from uvicorn.server import ServerState

from artifacts.fleet import Fleet
from server.client_side import EXTENSION, Client, ClientSide
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


class Noting:
    """Stands for a transport and for an upstream: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.written = b""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append(name)

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return "abort" in self.told

    def write(self, data: bytes) -> None:
        self.written += data


class Connected:
    """A connection that has got one request, whose application does not answer by itself."""

    def __init__(self) -> None:
        self.transport, self.upstream, self.scope = Noting(), Noting(), dict[str, Any]()
        fleet = Fleet.parse({"variants": [{"name": "a", "engine": "sim"}]}, "the test's fleet")
        config = uvicorn.Config(self._serve, lifespan="off", log_config=None)
        state = ServerState()
        self.side = ClientSide(lambda: fleet, config=config, server_state=state, app_state={})
        self.side.connection_made(self.transport)  # type: ignore[arg-type]
        self.side.data_received(ask(BODY))

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        await asyncio.Event().wait()

    @property
    def client(self) -> Client:
        found: Client = self.side.scope["extensions"][EXTENSION]  # type: ignore[typeddict-item]
        return found


def noted(use: Callable[[Connected], None]) -> None:
    async def test() -> None:
        connected = Connected()
        try:
            use(connected)
        finally:
            connected.side.connection_lost(None)
            for task in connected.side.tasks:
                task.cancel()
            await asyncio.gather(*connected.side.tasks, return_exceptions=True)

    asyncio.run(test())


def test_the_upstream_is_ended_in_the_callback_in_which_the_client_is_lost() -> None:
    def use(connected: Connected) -> None:
        connected.client.attach(connected.upstream)
        assert (connected.upstream.told, connected.client.gone) == ([], False)
        connected.side.connection_lost(None)
        assert (connected.upstream.told, connected.client.gone) == (["abort"], True)

    noted(use)


def test_an_upstream_that_comes_after_the_client_went_is_ended_at_once() -> None:
    def use(connected: Connected) -> None:
        connected.side.connection_lost(None)
        connected.client.attach(connected.upstream)
        assert connected.upstream.told == ["abort"]

    noted(use)


def test_the_upstream_follows_the_clients_pace_from_the_moment_it_is_attached() -> None:
    def use(connected: Connected) -> None:
        connected.side.pause_writing()
        assert connected.client.paused
        connected.client.attach(connected.upstream)
        connected.side.resume_writing()
        connected.side.pause_writing()
        assert connected.upstream.told == ["pause", "resume", "pause"]
        connected.client.detach()
        connected.side.resume_writing()
        connected.side.connection_lost(None)
        assert connected.upstream.told == ["pause", "resume", "pause"]

    noted(use)


@pytest.mark.parametrize("paused", [True, False])
def test_only_a_client_that_takes_nothing_is_cut(paused: bool) -> None:
    def use(connected: Connected) -> None:
        if paused:
            connected.side.pause_writing()
        connected.client.cut_if_paused()
        assert ("abort" in connected.transport.told) == paused

    noted(use)


def test_a_request_in_one_piece_arms_no_timer_of_its_own() -> None:
    """The connection has had one since it was made; requests neither move it nor add to it."""

    def use(connected: Connected) -> None:
        made: list[float] = []
        loop_call = connected.side.loop.call_at
        connected.side.loop.call_at = lambda *a, **k: made.append(a[0]) or loop_call(*a, **k)  # type: ignore[method-assign,func-returns-value]
        for _ in range(3):
            connected.side.data_received(ask(BODY))
        assert made == []
        connected.side.data_received(ask(BODY)[:-1])
        connected.side.data_received(ask(BODY)[-1:])
        assert len(made) <= 1

    noted(use)


def test_what_is_written_is_framed_as_the_answer_began() -> None:
    def use(connected: Connected) -> None:
        cycle = connected.side.cycle
        cycle.chunked_encoding = True
        connected.client.write_body(b"x" * 16, False)
        connected.client.write_body(b"end", True)
        assert connected.transport.written == b"10\r\n" + b"x" * 16 + b"\r\n3\r\nend\r\n0\r\n\r\n"
        assert cycle.chunked_encoding is False, "uvicorn must not write a second end"
        cycle.expected_content_length, connected.transport.written = 7, b""
        connected.client.write_body(b"1234567", True)
        assert (connected.transport.written, cycle.expected_content_length) == (b"1234567", 0)

    noted(use)


def test_plain_answers_need_no_second_read(tmp_path: Path) -> None:
    """Head and body in one read of the worker's socket are one answer all the same."""

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            assert (await gateway.asked(ask())).body == PLAIN[-2:]

    run(test())
