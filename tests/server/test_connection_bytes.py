"""Is an answer the same however the network cuts it, is the sender held when nobody reads, and what is kept for reuse?

No socket: the connection is fed by hand, and its transport notes what it is told.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import pool as pool_module
from server.connection import HIGH_WATER_BYTES, ResponseHead, UpstreamConnection, UpstreamLost
from server.pool import Address, Exchange, UpstreamPool

HEAD = b"HTTP/1.1 200 OK\r\nX-One: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nx-one: b\r\n\r\n"
    b"3\r\nabc\r\n2;note=1\r\nde\r\n0\r\n\r\n"
)


@dataclass
class Wire:
    """Stands for the transport."""

    written: list[bytes] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def get_extra_info(self, name: str) -> None:
        """No socket."""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.told.append("abort")

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


def connected(use: Callable[[UpstreamConnection, Wire], Awaitable[None]]) -> Wire:
    """Runs `use` with a connection that has just sent a request."""
    wire = Wire()

    async def run() -> None:
        connection = UpstreamConnection(asyncio.get_running_loop())
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.send(b"request")
        async with asyncio.timeout(10):
            await use(connection, wire)

    asyncio.run(run())
    return wire


async def body_of(connection: UpstreamConnection) -> bytes:
    pieces: list[bytes] = []
    await connection.relay(lambda body, last: pieces.append(body))
    return b"".join(pieces)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.parametrize(
    ("answer", "status", "own"), [(HEAD + b"abcde", 200, b"a"), (CHUNKED, 201, b"b")], ids=["counted", "chunked"]
)
@settings(max_examples=30, deadline=None)
@given(at=st.lists(st.integers(1, 130), max_size=12))
def test_the_cuts_of_the_network_mean_nothing(answer: bytes, status: int, own: bytes, at: list[int]) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        for piece in cut(answer, [edge for edge in at if edge < len(answer)]):
            assert not connection.complete
            connection.data_received(piece)
        head = await connection.head()
        assert (head.status, head.header(b"x-one"), await body_of(connection)) == (status, own, b"abcde")
        assert (connection.complete, connection.reusable, connection.lost) == (True, True, False)

    connected(use)


def test_every_byte_by_itself() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        for index in range(len(CHUNKED)):
            connection.data_received(CHUNKED[index : index + 1])
            assert connection.complete == (index == len(CHUNKED) - 1)
        assert await body_of(connection) == b"abcde"

    connected(use)


@pytest.mark.parametrize(
    ("name", "value"), [(b"content-length", b"5"), (b"x-one", b"a"), (b"X-One", None), (b"y", None)]
)
def test_header_names_are_lower_case(name: bytes, value: bytes | None) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(HEAD + b"abcde")
        assert (await connection.head()).header(name) == value

    connected(use)


def test_of_a_repeated_header_all_are_kept_and_the_first_is_found() -> None:
    head = ResponseHead(200, ((b"set-cookie", b"1"), (b"set-cookie", b"2")))
    assert head.header(b"set-cookie") == b"1"
    assert len(head.headers) == 2


def test_a_reader_that_waits_is_woken_by_each_arrival() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        waiting = asyncio.create_task(connection.head())
        await asyncio.sleep(0)
        assert not waiting.done()
        connection.data_received(HEAD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not connection.has_body
        connection.data_received(b"ab")
        assert connection.has_body
        await waiting
        pieces: list[bytes] = []
        relaying = asyncio.create_task(connection.relay(lambda body, last: pieces.append(body)))
        await asyncio.sleep(0)
        assert pieces == [b"ab"]
        connection.data_received(b"c")
        connection.data_received(b"de")
        assert pieces == [b"ab", b"c", b"de"], "handed on in the callback itself"
        assert not relaying.done()
        await relaying

    connected(use)


HIGH_WATER = [
    (HIGH_WATER_BYTES, [], "exactly the limit is still taken"),
    (HIGH_WATER_BYTES + 1, ["pause", "resume"], "one byte more stops the sender until there is a reader"),
    (3 * HIGH_WATER_BYTES, ["pause", "resume"], "far beyond it, the sender is stopped once"),
]


@pytest.mark.parametrize(("size", "told", "what"), HIGH_WATER, ids=[what for *_, what in HIGH_WATER])
def test_high_water(size: int, told: list[str], what: str) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n")
        for start in range(0, size, 65536):
            connection.data_received(bytes(min(65536, size - start)))
        assert wire.told == told[:1]
        pieces: list[bytes] = []
        relaying = asyncio.create_task(connection.relay(lambda body, last: pieces.append(body)))
        await asyncio.sleep(0)
        assert len(b"".join(pieces)) == size
        assert wire.told == told, what
        for _ in range(3):
            connection.data_received(bytes(HIGH_WATER_BYTES))
        assert wire.told == told, "from now on the reader says when to stop"
        relaying.cancel()

    connected(use)


@pytest.mark.parametrize(
    ("early", "told"), [(1, ["pause"]), (HIGH_WATER_BYTES + 1, ["pause", "pause"])], ids=["a byte", "too much"]
)
def test_a_reader_that_says_stop_at_once_is_obeyed(early: int, told: list[str]) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + bytes(early))
        relaying = asyncio.create_task(connection.relay(lambda body, last: connection.pause()))
        await asyncio.sleep(0)
        assert wire.told == told
        connection.resume()
        assert wire.told == [*told, "resume"]
        relaying.cancel()

    connected(use)


def test_a_connection_that_was_held_reads_again_for_the_next_exchange() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(HEAD + b"abcde")
        await connection.relay(lambda body, last: connection.pause())
        connection.send(b"again")
        assert wire.told == ["pause", "resume"]

    connected(use)


def test_what_comes_after_a_whole_answer_is_nobodys_answer() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(HEAD + b"abcde")
        assert not connection.lost
        connection.data_received(HEAD)
        assert connection.lost

    assert connected(use).told == ["abort"]


NOTHING = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("answer", NOTHING, ids=["counted", "no content", "chunked"])
def test_a_head_without_a_body_is_there_at_once(answer: bytes) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(answer)
        assert (await connection.head()).status in (200, 204)
        assert (connection.has_body, connection.complete) == (False, True)
        assert await body_of(connection) == b""

    connected(use)


LOSSES = [
    (b"", False, "nothing came"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", False, "the headers were cut"),
    (HEAD + b"abcd", False, "a byte is missing"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", False, "the last chunk is missing"),
    (b"HTTP/1.1 200 OK\r\n\r\nabcde", True, "the end of the connection is the end of the body"),
]


@pytest.mark.parametrize(("data", "whole", "what"), LOSSES, ids=[what for *_, what in LOSSES])
def test_the_end_of_the_connection(data: bytes, whole: bool, what: str) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(data)
        connection.connection_lost(None)
        if whole:
            await connection.head()
            assert await body_of(connection) == b"abcde"
        else:
            with pytest.raises(UpstreamLost):
                await connection.head()
                await body_of(connection)
        assert (connection.complete, connection.reusable) == (whole, False), what

    connected(use)


def test_what_is_no_http_is_hung_up_on() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(b"SSH-2.0-x\r\n")
        with pytest.raises(UpstreamLost):
            await connection.head()

    assert connected(use).told == ["abort"]


def test_a_second_exchange_starts_clean() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        connection.data_received(HEAD + b"abcde")
        assert await body_of(connection) == b"abcde"
        connection.send(b"again")
        assert (connection.complete, connection.reusable, connection.answered) == (False, False, False)
        connection.data_received(HEAD.replace(b"200", b"404").replace(b"5", b"1") + b"z")
        assert (await connection.head()).status == 404
        assert await body_of(connection) == b"z"
        assert connection.uses == 2

    assert connected(use).written == [b"request", b"again"]


KEPT = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, "kept alive by default"),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False, "HTTP/1.0 closes by default"),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False, "it says that it closes"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", False, "the answer is not whole"),
]


@pytest.mark.parametrize(("answer", "kept", "why"), KEPT, ids=[why for *_, why in KEPT])
def test_which_connections_are_kept(answer: bytes, kept: bool, why: str) -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        pool = UpstreamPool(Address(socket_path="/nowhere"))
        connection.data_received(answer)
        pool.give_back(connection)
        assert (pool.take_idle() is connection) == kept, why
        assert wire.told == ([] if kept else ["abort"])

    connected(use)


def test_the_newest_idle_connection_is_taken_and_lost_ones_are_skipped() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        pool = UpstreamPool(Address(socket_path="/nowhere"))
        idle = [UpstreamConnection(asyncio.get_running_loop()) for _ in range(3)]
        for one in idle:
            one.reusable = True
            pool.give_back(one)
        idle[2].connection_lost(None)
        assert pool.take_idle() is idle[1]
        pool.close()
        assert (idle[0].lost, idle[1].lost) == (True, False)
        assert pool.take_idle() is None

    connected(use)


def test_no_more_connections_are_kept_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_CONNECTIONS", 2)

    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        pool = UpstreamPool(Address(socket_path="/nowhere"))
        given = [UpstreamConnection(asyncio.get_running_loop()) for _ in range(3)]
        for one in given:
            one.reusable = True
            pool.give_back(one)
        assert [one.lost for one in given] == [False, False, True]

    connected(use)


def test_an_exchange_that_has_not_begun_gives_nothing() -> None:
    async def use(connection: UpstreamConnection, wire: Wire) -> None:
        exchange = Exchange(UpstreamPool(Address(socket_path="/nowhere")))
        exchange.finish()
        exchange.abort()
        assert not exchange.has_body
        with pytest.raises(UpstreamLost):
            await exchange.read()

    connected(use)
