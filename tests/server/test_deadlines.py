"""Is a worker that is too late given up at the right time, is the client told, and does the worker see it go?"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from opened_gateway import EVENTS, PLAIN, Exchange, Peer, ask, chunk, flooding, opened, run, until

from artifacts.limits import Timeouts
from server.deadlines import Patience
from server.metrics import CLIENT_GONE

ALLOWED = Timeouts(first_token_s=10, between_tokens_s=4, total_s=30)

# When it is looked, whether something came since the last look, whether the client takes nothing; what is too late.
LOOKS = [
    ([(9.9, False, False)], None),
    ([(10, False, False)], "first_token_timeout"),
    ([(10, False, True)], "first_token_timeout"),
    ([(10, True, False)], None),
    ([(9, True, False), (12.9, False, False)], None),
    ([(9, True, False), (13, False, False)], "between_tokens_timeout"),
    ([(9, True, False), (12, True, False), (15.9, False, False)], None),
    ([(9, True, False), (12, True, False), (16, False, False)], "between_tokens_timeout"),
    ([(9, True, False), (12, False, True), (15.9, False, False)], None),
    ([(9, True, False), (12, False, True), (16, False, False)], "between_tokens_timeout"),
    ([(9, True, False), (29.9, True, False)], None),
    ([(9, True, False), (30, True, False)], "total_timeout"),
    ([(9, True, False), (30, True, True)], "total_timeout"),
    ([(30, False, False)], "total_timeout"),
]


@pytest.mark.parametrize(("looks", "code"), LOOKS)
def test_what_is_too_late(looks: list[tuple[float, bool, bool]], code: str | None) -> None:
    began_s = 1000.0
    patience = Patience("a", ALLOWED, began_s)
    faults = [patience.fault(began_s + at_s, heard=heard, paused=paused) for at_s, heard, paused in looks]
    assert faults[:-1] == [None] * (len(looks) - 1)
    last = faults[-1]
    assert (last and last.code) == code
    assert last is None or (last.status, last.error_type) == (504, "server_error")


@pytest.mark.parametrize(
    ("at_s", "heard", "next_s"), [(0, False, 0.5), (9.8, False, 10), (9.8, True, 10.3), (29.8, True, 30)]
)
def test_the_next_look_is_at_a_deadline_or_an_eighth_of_the_silence_away(
    at_s: float, heard: bool, next_s: float
) -> None:
    patience = Patience("a", ALLOWED, 0.0)
    assert patience.fault(at_s, heard=heard, paused=False) is None
    assert patience.next_look_s(at_s) == pytest.approx(next_s)


@pytest.mark.parametrize("gap_s", [0.0, 0.49, 3.9])
def test_a_silence_is_noticed_in_time(gap_s: float) -> None:
    """Whenever the last piece comes: not before four seconds have passed, and at most half a second after."""
    patience, now_s, spoke_s = Patience("a", ALLOWED, 0.0), 0.0, 5.0 + gap_s
    while True:
        before_s, now_s = now_s, patience.next_look_s(now_s)
        if patience.fault(now_s, heard=before_s < spoke_s <= now_s, paused=False):
            break
    assert 4 <= now_s - spoke_s <= 4.5 + 1e-9


SILENT = [
    ([], "first_token", {"first_token_s": 0.2}, b""),
    ([b"HTTP/1.1 100 Continue\r\n\r\n"], "first_token", {"first_token_s": 0.2}, b""),
    ([], "total", {"total_s": 0.2}, b""),
    ([EVENTS], "first_token", {"first_token_s": 0.2}, b""),
    ([EVENTS, chunk(b"data: 1\n\n")], "between_tokens", {"between_tokens_s": 0.2}, b"data: 1\n\n"),
    ([EVENTS, chunk(b"data: 1")], "between_tokens", {"between_tokens_s": 0.2}, b"data: 1\n\n"),
    ([EVENTS, chunk(b"data: 1\n\n")], "total", {"total_s": 0.2}, b"data: 1\n\n"),
]


@pytest.mark.parametrize(("said", "phase", "timeouts", "before"), SILENT)
def test_a_silent_worker_is_given_up(
    tmp_path: Path, said: list[bytes], phase: str, timeouts: dict[str, float], before: bytes
) -> None:
    closed = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        await exchange.say(*said)
        await exchange.closed()
        closed.set()

    async def test() -> None:
        async with opened(tmp_path, silent, timeouts=timeouts) as gateway:
            began_s = time.monotonic()
            peer = await gateway.connect()
            await peer.send(ask())
            if before:
                status, body = await _cut_stream(peer)
            else:
                answer = await peer.answer()
                status, body = answer.status, b"data: " + answer.body + b"\n\n"
            await closed.wait()
            assert 0.2 <= time.monotonic() - began_s < 5
            assert body.startswith(before)
            event = body.removeprefix(before)
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == f"{phase}_timeout"
            assert event.endswith(b"\n\n")
            assert (status, [request.code for request in gateway.observed]) == (200 if before else 504, [504])

    run(test())


async def _cut_stream(peer: Peer) -> tuple[int, bytes]:
    """Status and body of an answer in chunks that has no end."""
    status, _ = await peer.head()
    rest, body = await peer.rest(), b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        assert int(size, 16) > 0
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return status, body


def test_an_answer_that_is_no_stream_is_cut_short(tmp_path: Path) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.say(PLAIN[:-1])
        await exchange.closed()

    async def test() -> None:
        async with opened(tmp_path, half, timeouts={"between_tokens_s": 0.2}) as gateway:
            peer = await gateway.connect()
            await peer.send(ask())
            assert (await peer.head())[0] == 200
            assert await peer.rest() == b"{"

    run(test())


def test_a_worker_that_goes_on_may_take_longer_than_one_silence(tmp_path: Path) -> None:
    """The same single byte again and again is an answer that goes on."""

    async def steady(exchange: Exchange) -> None:
        await exchange.say(EVENTS)
        for _ in range(20):
            await exchange.say(chunk(b" "))
            await asyncio.sleep(0.04)
        await exchange.say(b"0\r\n\r\n")

    async def test() -> None:
        async with opened(tmp_path, steady, timeouts={"between_tokens_s": 0.25, "first_token_s": 0.3}) as gateway:
            assert (await gateway.asked(ask())).body == b" " * 20
            assert gateway.observed[0].code == 200

    run(test())


def test_nobody_accepts(tmp_path: Path) -> None:
    """A listener whose queue is full: connecting to it takes until somebody gives up."""

    async def test() -> None:
        with socket.socket() as full, socket.socket() as waiting:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            variants = [{"name": "a", "url": url}]
            async with opened(tmp_path, variants=variants, timeouts={"connect_s": 0.2}) as gateway:
                answer = await gateway.asked(ask())
                assert (answer.status, answer.code) == (504, "connect_timeout")
                assert "had 0.2 s to accept" in json.loads(answer.body)["error"]["message"]
                assert gateway.observed[0].code == 504

    run(test())


def test_a_client_that_takes_nothing_is_cut_after_the_total(tmp_path: Path) -> None:
    """Its slowness is not the worker's silence, but it may not hold its place for ever either."""
    closed = asyncio.Event()

    async def test() -> None:
        timeouts = {"between_tokens_s": 0.1, "total_s": 1.0}
        async with opened(tmp_path, flooding(closed), timeouts=timeouts) as gateway:
            began_s = time.monotonic()
            peer = await gateway.connect()
            await peer.send(ask())
            await closed.wait()
            assert time.monotonic() - began_s >= 1.0
            await until(lambda: gateway.observed)
            assert gateway.observed[0].code == CLIENT_GONE
            assert gateway.variant.gate.in_flight == 0

    run(test())
