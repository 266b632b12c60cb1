"""Does an errand end once, whatever ends it, and does a connection end when nobody has asked for long enough?

Afterwards nothing is held: `opened` sees to that.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opened_gateway import EVENTS, PLAIN, Exchange, Opened, ask, chunk, opened, run, until

from server.metrics import CLIENT_GONE


async def silence(exchange: Exchange) -> None:
    await exchange.closed()


def test_all_who_wait_for_a_worker_are_told_in_the_moment_in_which_it_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, silence) as gateway:
            asking = [asyncio.ensure_future(gateway.asked(ask())) for _ in range(20)]
            await until(lambda: len(gateway.requests) == 20)
            gateway.variant.pool.cut()
            assert [request.code for request in gateway.observed] == [502] * 20, "in the very call"
            assert [(await answer).code for answer in asking] == ["worker_lost"] * 20
            assert not gateway.variant.pool.busy

    run(test())


def test_a_client_that_leaves_while_its_worker_is_connected_to_costs_no_request(tmp_path: Path) -> None:
    """The connection that comes too late is closed."""

    async def test() -> None:
        async with opened(tmp_path, silence) as gateway:
            pool, reached, go_on = gateway.variant.pool, asyncio.Event(), asyncio.Event()
            connect = pool.connect

            async def slowly() -> object:
                reached.set()
                await go_on.wait()
                return await connect()

            pool.connect = slowly  # type: ignore[method-assign,assignment]
            peer = await gateway.connect()
            await peer.send(ask())
            await reached.wait()
            peer.writer.close()
            await until(lambda: gateway.observed)
            assert gateway.observed[0].code == CLIENT_GONE
            assert (gateway.registry.held, gateway.variant.gate.in_flight) == (0, 0)
            go_on.set()
            await asyncio.sleep(0.05)
            assert (gateway.requests, pool.busy) == ([], 0)

    run(test())


@pytest.mark.parametrize("status", [200, 299, 404, 599, 799, 999])
def test_a_status_that_nobody_knows_is_passed_on(tmp_path: Path, status: int) -> None:
    async def oddly(exchange: Exchange) -> None:
        await exchange.say(PLAIN.replace(b"200 OK", b"%d Odd" % status))

    async def test() -> None:
        async with opened(tmp_path, oddly) as gateway:
            answer = await gateway.asked(ask())
            assert (answer.status, answer.body) == (status, b"{}")

    run(test())


def test_a_second_answer_in_the_same_read_reaches_nobody(tmp_path: Path) -> None:
    async def twice(exchange: Exchange) -> None:
        number = b"%d" % len(requests)
        requests.append(exchange.request)
        first = PLAIN.replace(b"{}", b"#" + number)
        await exchange.say(first + PLAIN.replace(b"{}", b"!!"))

    requests: list[bytes] = []

    async def test() -> None:
        async with opened(tmp_path, twice) as gateway:
            peer = await gateway.connect()
            for number in range(3):
                await peer.send(ask())
                assert (await peer.answer()).body == b"#%d" % number

    run(test())


def test_an_answer_that_is_not_taken_keeps_its_place_and_frees_the_worker(tmp_path: Path) -> None:
    """As if its last piece had filled the client's buffer."""
    gateways: list[Opened] = []

    async def filling(exchange: Exchange) -> None:
        _only(gateways[0]).flow.pause_writing()
        await exchange.say(PLAIN)

    async def test() -> None:
        async with opened(tmp_path, filling) as gateway:
            gateways.append(gateway)
            peer = await gateway.connect()
            await peer.send(ask() * 2)
            for number in (1, 2):
                await until(lambda: len(gateway.requests) == number and not gateway.variant.pool.busy)  # noqa: B023
                assert (await peer.answer()).body == b"{}"
                assert (len(gateway.observed), gateway.variant.gate.in_flight) == (number - 1, 1)
                _only(gateway).resume_writing()
                assert (len(gateway.observed), gateway.variant.gate.in_flight) == (number, 0)
            assert [request.code for request in gateway.observed] == [200, 200]

    run(test())


def _only(gateway: Opened) -> Any:
    (connection,) = gateway.endpoint.server_state.connections
    return connection


REFUSED_EARLY = ask(b"x" * 64)
IDLE = [
    ([ask()], [200], "after an answer"),
    ([ask(), ask()], [200, 200], "after the second"),
    ([REFUSED_EARLY[:-10], REFUSED_EARLY[-10:]], [413], "after the rest of a body that was refused before"),
    ([ask(b"", path="/health", method="GET")], [200], "after the control plane"),
]


@pytest.mark.parametrize(("pieces", "statuses", "when"), IDLE, ids=[when for *_, when in IDLE])
def test_a_connection_without_requests_ends_in_silence(
    tmp_path: Path, pieces: list[bytes], statuses: list[int], when: str
) -> None:
    async def test() -> None:
        async with opened(tmp_path, limits={"max_body_bytes": 63}, timeouts={"header_s": 30}) as gateway:
            peer = await gateway.connect()
            await until(lambda: gateway.endpoint.server_state.connections)
            _only(gateway).timeout_keep_alive = 0.3
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0.05)
            assert [(await peer.answer()).status for _ in statuses] == statuses
            assert await peer.rest() == b"", when

    run(test())


def test_an_answer_that_takes_longer_than_the_pause_between_requests_is_not_cut(tmp_path: Path) -> None:
    async def slowly(exchange: Exchange) -> None:
        await exchange.say(EVENTS)
        for _ in range(10):
            await exchange.say(chunk(b"x"))
            await asyncio.sleep(0.05)
        await exchange.say(b"0\r\n\r\n")

    async def test() -> None:
        async with opened(tmp_path, slowly) as gateway:
            peer = await gateway.connect()
            await until(lambda: gateway.endpoint.server_state.connections)
            _only(gateway).timeout_keep_alive = 0.1
            for _ in range(2):
                await peer.send(ask())
                assert (await peer.answer()).body == b"x" * 10

    run(test())
