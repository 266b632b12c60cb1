"""What is a client told that says too much, too slowly, or no HTTP, and does it cost the answers it still waits for?

Real sockets: what matters is which bytes come back before the connection is closed.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from opened_gateway import BODY, PLAIN, Exchange, Opened, ask, opened, run, until

HEAD_LIMIT = 4096
OVER = {"limits": {"max_header_bytes": HEAD_LIMIT, "max_body_bytes": 1 << 20}}

MALFORMED = [
    (b"GET\r\n\r\n", "no request line"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "TLS on a plain port"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: five\r\n\r\n", "a length that is no number"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "a negative length"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "a length beyond 64 bits"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", "two lengths"),
    (
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "a length and chunks",
    ),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk of size zz"),
    (b"POST /v1/completions HTTP/1.1\r\nbad name: 1\r\n\r\n", "a space in a header's name"),
    (b"POST /v1/completions HTTP/1.1\r\nx: a\x00b\r\n\r\n", "a null byte in a header"),
    (b"POST /v1/comp\xffletions HTTP/1.1\r\n\r\n", "a path beyond ASCII"),
    (b"POST http:// HTTP/1.1\r\n\r\n", "a URL without a host"),
    (b"CONNECT h:80 HTTP/1.1\r\n\r\n", "a tunnel"),
    (b"FETCH /v1/completions HTTP/1.1\r\n\r\n", "an unknown method"),
    (b"POST /v1/completions HTTP/9.1\r\n\r\n", "an unknown version"),
]


@pytest.mark.parametrize(("sent", "what"), MALFORMED, ids=[what for _, what in MALFORMED])
def test_broken_http_is_told_in_the_envelope_and_the_connection_ends(tmp_path: Path, sent: bytes, what: str) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            await peer.send(sent)
            answer = await peer.answer()
            assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_http", "close")
            assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}
            assert await peer.rest() == b""
            assert gateway.requests == []

    run(test())


def padded(size_bytes: int) -> bytes:
    """A whole request whose line and headers are so long, by one header."""
    plain = ask(fields="x: \r\n").partition(BODY)[0]
    room = size_bytes - (len(plain) - len("\r\n"))
    return ask(fields=f"x: {'y' * room}\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (padded(HEAD_LIMIT), 200),
        (padded(HEAD_LIMIT + 1), 431),
        (padded(1 << 20), 431),
        (ask(fields="".join(f"x-{index}: {index}\r\n" for index in range(500))), 431),
        (ask(path="/v1/completions?" + "q" * HEAD_LIMIT), 431),
        (ask(path="/health?" + "q" * 60_000, method="GET"), 431),
        (b"POST /" + b"a" * (1 << 20), 431),
        (b"POST / HTTP/1.1\r\nx: " + b"a" * (1 << 20), 431),
        (b"POST / HTTP/1.1\r\n" + b"a: b\r\n" * (1 << 18), 431),
        (b"POST / HTTP/1.1\r\nx: " + b"a" * (24 << 20), 431),
        (ask(b'{"model": "a", "x": "' + b"y" * 500_000 + b'"}'), 200),
    ],
    ids=[
        "at",
        "over",
        "far over",
        "many",
        "query",
        "get",
        "endless line",
        "endless header",
        "endless many",
        "flood",
        "body",
    ],
)
def test_the_limit_of_the_head(tmp_path: Path, sent: bytes, status: int) -> None:
    async def test() -> None:
        async with opened(tmp_path, **OVER) as gateway:
            answer = await gateway.asked(sent)
            assert answer.status == status
            assert status == 200 or (answer.code, answer.headers["connection"]) == ("headers_too_large", "close")

    run(test())


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_head_in_many_pieces_is_measured_as_a_whole(tmp_path: Path, cut: int) -> None:
    async def test() -> None:
        async with opened(tmp_path, **OVER) as gateway:
            for size, status in ((HEAD_LIMIT, 200), (HEAD_LIMIT + 1, 431)):
                sent = padded(size)
                answer = await gateway.asked(*(sent[at : at + cut] for at in range(0, len(sent), cut)))
                assert answer.status == status

    run(test())


CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
ALL = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)


def test_trailers_are_no_headers(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            answer = await gateway.asked(CHUNKED + ALL + b"x-late: 1\r\nauthorization: Bearer b\r\n\r\n")
            assert answer.status == 200
            assert b"x-late" not in gateway.requests[0]
            assert b"authorization" not in gateway.requests[0]

    run(test())


@pytest.mark.parametrize(
    "flood", [b"x: " + b"a" * (2 << 20), b"a: b\r\n" * (1 << 19)], ids=["one endless trailer", "endless trailers"]
)
def test_trailers_are_bounded(tmp_path: Path, flood: bytes) -> None:
    async def test() -> None:
        async with opened(tmp_path, **OVER) as gateway:
            assert (await gateway.asked(CHUNKED + ALL + flood)).code == "headers_too_large"
            assert gateway.requests == []

    run(test())


LOOP_CLOCK_S = 0.002  # The loop counts in whole milliseconds.
SLOW = {"timeouts": {"header_s": 0.15, "body_s": 0.3}}
SLOW_CLIENTS = [
    ([], 0.15, "headers", "says nothing"),
    ([b"PO"], 0.15, "headers", "stops in the request line"),
    ([b"POST / HTTP/1.1\r\nx: 1\r\n"], 0.15, "headers", "stops in the headers"),
    ([b"\r\n"], 0.15, "headers", "sends empty lines"),
    ([ask()[:-1]], 0.3, "body", "stops before the last byte"),
    ([CHUNKED + b"5\r\nabc"], 0.3, "body", "stops in a chunk"),
    ([CHUNKED + ALL], 0.3, "body", "stops before the end of the trailers"),
]


@pytest.mark.parametrize(("sent", "patience_s", "part", "what"), SLOW_CLIENTS, ids=[c[3] for c in SLOW_CLIENTS])
def test_a_client_that_stops_is_told(
    tmp_path: Path, sent: list[bytes], patience_s: float, part: str, what: str
) -> None:
    async def test() -> None:
        async with opened(tmp_path, **SLOW) as gateway:
            began_s = time.monotonic()
            peer = await gateway.connect()
            await peer.send(*sent)
            answer = await peer.answer()
            assert (answer.status, answer.code, answer.headers["connection"]) == (408, "request_timeout", "close")
            assert f"The request's {part} did not" in json.loads(answer.body)["error"]["message"]
            assert time.monotonic() - began_s >= patience_s - LOOP_CLOCK_S
            assert await peer.rest() == b""
            assert gateway.requests == []
            await until(lambda: len(gateway.observed) == (part == "body"))
            assert [request.code for request in gateway.observed] == [408] * (part == "body")

    run(test())


@pytest.mark.parametrize("first", [b"", ask()], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("drops", [ask(), b"\r\n" * 50], ids=["a request", "empty lines"])
def test_a_trickle_does_not_renew_the_patience(tmp_path: Path, first: bytes, drops: bytes) -> None:
    """Every byte comes well within the patience; all of them together do not."""

    async def test() -> None:
        async with opened(tmp_path, **SLOW) as gateway:
            peer = await gateway.connect()
            if first:
                await peer.send(first)
                assert (await peer.answer()).status == 200
            answer = asyncio.create_task(peer.answer())
            for index in range(30):
                await peer.send(drops[index : index + 1])
                await asyncio.wait((answer,), timeout=0.02)
                if answer.done():
                    break
            assert (await answer).status == 408
            assert index < 25

    run(test())


def test_a_trickled_body_that_was_refused_already_is_cut(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, limits={"max_body_bytes": 100}, **SLOW) as gateway:
            peer = await gateway.connect()
            await peer.send(ask(b"x" * 1000)[:-500])
            assert (await peer.answer()).status == 413
            assert await peer.rest() == b""

    run(test())


def test_requests_one_after_another_outlive_the_patience(tmp_path: Path) -> None:
    """Idle between requests is uvicorn's matter, and a slow worker is not the client's fault."""

    async def slowly(exchange: Exchange) -> None:
        await asyncio.sleep(0.4)
        await exchange.say(PLAIN)

    async def test() -> None:
        async with opened(tmp_path, slowly, **SLOW) as gateway:
            peer = await gateway.connect()
            for _ in range(2):
                await peer.send(ask()[:-5])
                await asyncio.sleep(0.05)
                await peer.send(ask()[-5:])
                assert (await peer.answer()).status == 200
                await asyncio.sleep(0.4)
            assert not peer.reader.at_eof()

    run(test())


def test_a_body_that_is_not_read_because_another_is_answered_is_not_late(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await exchange.say(PLAIN)

    async def test() -> None:
        async with opened(tmp_path, held, **SLOW) as gateway:
            peer = await gateway.connect()
            await peer.send(ask())
            await until(lambda: gateway.requests)
            await peer.send(ask()[:-5])
            (connection,) = gateway.endpoint.server_state.connections
            await until(lambda: connection.flow.read_paused)
            await peer.send(ask()[-5:])
            await asyncio.sleep(0.5)
            release.set()
            assert [(await peer.answer()).status for _ in range(2)] == [200, 200]

    run(test())


async def _behind_a_slow_one(gateway: Opened, follow: bytes, release: asyncio.Event) -> tuple[bytes, bytes]:
    peer = await gateway.connect()
    await peer.send(ask() + follow)
    await until(lambda: gateway.requests)
    await asyncio.sleep(0.4)
    release.set()
    first = await peer.answer()
    return first.body, await peer.rest()


@pytest.mark.parametrize(
    ("follow", "status", "code"),
    [
        (b"NONSENSE\r\n\r\n", b"400", b"invalid_http"),
        (b"POST / HT", b"408", b"request_timeout"),
        (b"POST / HTTP/1.1\r\nx: " + b"a" * (1 << 20), b"431", b"headers_too_large"),
        (CHUNKED + b"zz\r\n", b"400", b"invalid_http"),
    ],
)
def test_a_bad_request_behind_a_good_one_waits_for_its_turn(
    tmp_path: Path, follow: bytes, status: bytes, code: bytes
) -> None:
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await exchange.say(PLAIN)

    async def test() -> None:
        async with opened(tmp_path, held, **SLOW, **OVER) as gateway:
            first, rest = await _behind_a_slow_one(gateway, follow, release)
            assert first == b"{}"
            assert rest.startswith(b"HTTP/1.1 " + status)
            assert code in rest
            assert rest.count(b"connection: close") == 1
            assert len(gateway.requests) == 1

    run(test())


def test_all_good_requests_before_a_bad_one_are_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            await peer.send(ask() * 5 + b"NONSENSE\r\n\r\n")
            assert [(await peer.answer()).status for _ in range(6)] == [200] * 5 + [400]
            assert await peer.rest() == b""
            assert len(gateway.requests) == 5

    run(test())


@pytest.mark.parametrize(
    ("method", "path", "body", "status"), [("GET", "/health", b"", 200), ("POST", "/v1/completions", BODY, 400)]
)
def test_nobody_switches_protocols(tmp_path: Path, method: str, path: str, body: bytes, status: int) -> None:
    fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    sent = ask(body, path=path, method=method, fields=fields)
    if not body:
        sent = sent.replace(b"Content-Length: 0\r\n", b"")

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            peer = await gateway.connect()
            await peer.send(sent)
            answer = await peer.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert status == 200 or answer.code == "upgrade_not_supported"
            assert await peer.rest() == b""
            assert gateway.requests == []

    run(test())
