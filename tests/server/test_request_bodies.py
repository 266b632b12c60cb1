"""How much of a request's body is heard, when does its worker get it, and what becomes of one that never ends?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opened_gateway import BODY, Opened, Peer, ask, chunk, opened, run, until

from artifacts.keys import add_key
from server.keys import Keyring
from server.metrics import CLIENT_GONE

CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def limited(size_bytes: int) -> dict[str, Any]:
    return {"limits": {"max_body_bytes": size_bytes}}


async def said(gateway: Opened, *pieces: bytes) -> Peer:
    """A client that has sent these, each in a read of its own."""
    peer = await gateway.connect()
    for piece in pieces:
        await peer.send(piece)
        await asyncio.sleep(0.01)
    return peer


CUTS = [1, 5, len(BODY) - 1, len(BODY)]


@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize("framing", ["counted", "chunked"])
def test_a_body_in_pieces_is_one_body(tmp_path: Path, framing: str, at: int) -> None:
    whole = ask()
    pieces = [whole[: at - len(BODY) or None], whole[len(whole) + at - len(BODY) :]]
    if framing == "chunked":
        pieces = [CHUNKED, chunk(BODY[:at]), *([chunk(BODY[at:])] if BODY[at:] else []), b"0\r\n\r\n"]

    async def test() -> None:
        async with opened(tmp_path, **limited(len(BODY))) as gateway:
            for _ in range(2):
                peer = await said(gateway, *pieces)
                assert (await peer.answer()).status == 200
            assert [request.rpartition(b"\r\n\r\n")[2] for request in gateway.requests] == [BODY] * 2
            assert [request.bytes_in for request in gateway.observed] == [len(BODY)] * 2

    run(test())


OVER = [
    ((ask()[: -len(BODY)],), "declared: before a byte of it has come"),
    ((CHUNKED, chunk(BODY[:-1]), chunk(BODY[-1:])), "in chunks: as soon as it is too much, before its end"),
    ((CHUNKED + chunk(BODY) + b"0\r\n\r\n",), "in one piece"),
]


@pytest.mark.parametrize(("pieces", "what"), OVER, ids=[what for _, what in OVER])
def test_a_longer_body_is_refused(tmp_path: Path, pieces: tuple[bytes, ...], what: str) -> None:
    async def test() -> None:
        async with opened(tmp_path, **limited(len(BODY) - 1)) as gateway:
            answer = await (await said(gateway, *pieces)).answer()
            assert (answer.status, answer.code) == (413, "request_too_large"), what
            assert f"larger than {len(BODY) - 1} bytes" in answer.body.decode()
            assert [request.code for request in gateway.observed] == [413]
            assert gateway.requests == []

    run(test())


def test_the_rest_of_a_refused_body_is_not_the_next_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, **limited(40)) as gateway:
            long = b"x" * 300_000
            peer = await said(gateway, ask(long)[:-250_000], long[:250_000], ask())
            assert [(await peer.answer()).status for _ in range(2)] == [413, 200]
            assert len(gateway.requests) == 1

    run(test())


def test_a_client_that_leaves_while_it_sends_is_counted_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await said(gateway, ask()[:-1])
            assert gateway.observed == []
            peer.writer.close()
            await until(lambda: gateway.observed)
            assert [request.code for request in gateway.observed] == [CLIENT_GONE]

    run(test())


def test_a_client_without_a_key_is_refused_by_its_head_alone(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", "asker", "ask")
    ring = Keyring(tmp_path / "keys.json", lambda told: None)

    async def test() -> None:
        async with opened(tmp_path, keyring=ring) as gateway:
            answer = await (await said(gateway, CHUNKED)).answer()
            assert (answer.status, answer.code) == (401, "missing_api_key")

    run(test())


@pytest.mark.parametrize("status", [100, 413])
def test_who_expects_to_be_told_to_continue_is_told_once_or_refused(tmp_path: Path, status: int) -> None:
    head, body = ask(fields="Expect: 100-Continue\r\n").split(BODY)[0], BODY

    async def test() -> None:
        async with opened(tmp_path, **limited(len(BODY) if status == 100 else 1)) as gateway:
            peer = await gateway.connect()
            await peer.send(head)
            assert (await peer.head())[0] == status
            if status == 100:
                for index in range(len(body)):
                    await peer.send(body[index : index + 1])
                assert (await peer.answer()).status == 200
                assert b"expect" not in gateway.requests[0]

    run(test())


def test_whoever_takes_nothing_is_not_heard(tmp_path: Path) -> None:
    """Else a body would grow without bound before anybody looks at it."""

    async def test() -> None:
        async with opened(tmp_path, **limited(1 << 30)) as gateway:
            peer = await gateway.connect()
            await until(lambda: gateway.endpoint.server_state.connections)
            (connection,) = gateway.endpoint.server_state.connections
            connection.flow.pause_writing()
            piece = chunk(b" " * 60_000)
            sending = asyncio.ensure_future(peer.send(CHUNKED, *[piece] * 600, chunk(BODY), b"0\r\n\r\n"))
            await until(lambda: connection.flow.read_paused)
            assert connection.cycle.body_bytes <= 1 << 20
            assert not sending.done()
            connection.resume_writing()
            assert (await peer.answer()).status == 200
            assert gateway.requests[0].endswith(b" " * 600 * 100 + BODY)

    run(test())


def test_thousands_of_pipelined_refusals_are_answered_in_order(tmp_path: Path) -> None:
    """Each begins where the one before has ended: the stack must not grow with them, nor what waits for the client."""

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            asked = b"".join(ask(b'{"model": "%d"}' % number) for number in range(3000))
            sending = asyncio.ensure_future(peer.send(asked, ask()))
            for number in range(3000):
                answer = await peer.answer()
                assert f"'{number}'" in answer.body.decode()
            assert (await peer.answer()).status == 200
            await sending

    run(test())


def test_whoever_pipelines_and_does_not_read_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sending = asyncio.ensure_future(peer.send(ask(b'{"model": "%s"}' % (b"x" * 500)) * 40_000))
            seen = -1
            while seen != len(gateway.observed):
                seen = len(gateway.observed)
                await asyncio.sleep(0.2)
            (connection,) = gateway.endpoint.server_state.connections
            assert connection.flow.write_paused
            assert connection.transport.get_write_buffer_size() < 1 << 20
            assert 0 < seen < 40_000
            peer.writer.transport.abort()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    run(test())
