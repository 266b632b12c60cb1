"""What does a connection do for the request on it? Seen by a transport and an upstream that note what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from opened_gateway import BODY, ask
from uvicorn.server import ServerState

from artifacts.fleet import Fleet
from server.client import Client
from server.client_side import ClientSide
from server.metrics import ObservedRequest


class Noting:
    """Stands for a transport and for an upstream: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append(name)

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return "abort" in self.told

    def write(self, data: bytes) -> None:
        self.writes.append(data)


class Connected:
    """A connection that has got one request; its data path notes what it hears and answers nothing by itself."""

    def __init__(self) -> None:
        self.transport, self.upstream = Noting(), Noting()
        self.heard: list[tuple[str, Client]] = []
        fleet = Fleet.parse({"variants": [{"name": "a", "engine": "sim"}]}, "the test's fleet")
        config = uvicorn.Config(self._serve, lifespan="off", log_config=None)
        self.side = ClientSide(
            lambda: fleet, self, lambda *_: True, config=config, server_state=ServerState(), app_state={}
        )
        self.side.connection_made(self.transport)  # type: ignore[arg-type]
        self.side.data_received(ask(BODY))

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    def hear_head(self, client: Client) -> ObservedRequest:
        self.heard.append(("head", client))
        return ObservedRequest("other")

    def hear_body(self, client: Client, request: ObservedRequest) -> None:
        self.heard.append(("whole" if client.whole else "body", client))

    def lose(self, client: Client, request: ObservedRequest) -> None:
        self.heard.append(("lost", client))

    @property
    def client(self) -> Client:
        return self.heard[0][1]


def noted(use: Callable[[Connected], None]) -> None:
    async def test() -> None:
        connected = Connected()
        try:
            use(connected)
        finally:
            connected.side.connection_lost(None)
            assert not connected.side.tasks, "a request to a worker needs no task"

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


FRAMINGS = [
    (200, None, True, b"transfer-encoding: chunked\r\n", [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"]),
    (200, 6, True, b"", [b"one", b"two"]),
    (201, 6, False, b"connection: close\r\n", [b"one", b"two"]),
]


@pytest.mark.parametrize(("status", "length", "kept", "said", "pieces"), FRAMINGS)
def test_head_and_first_body_are_one_write_and_so_are_last_body_and_end(
    status: int, length: int | None, kept: bool, said: bytes, pieces: list[bytes]
) -> None:
    def use(connected: Connected) -> None:
        connected.side.cycle.keep_alive = kept
        connected.client.begin(status, b"x: 1\r\n", length)
        assert connected.transport.writes == []
        connected.client.write_body(b"one", False)
        connected.client.write_body(b"two", True)
        connected.client.end()
        first, second = connected.transport.writes
        phrase = {200: b"OK", 201: b"Created"}[status]
        assert first == b"HTTP/1.1 %d %b\r\nx: 1\r\n%b\r\n%b" % (status, phrase, said, pieces[0])
        assert second == pieces[1]
        assert ("close" in connected.transport.told) == (not kept)
        assert connected.side.cycle.response_complete

    noted(use)


EMPTY = [(200, 0, b""), (204, None, b""), (304, None, b""), (200, None, b"0\r\n\r\n")]


@pytest.mark.parametrize(("status", "length", "end"), EMPTY)
def test_an_answer_without_a_body_is_one_write(status: int, length: int | None, end: bytes) -> None:
    def use(connected: Connected) -> None:
        connected.client.begin(status, b"", length)
        connected.client.end()
        (said,) = connected.transport.writes
        assert said.partition(b"\r\n\r\n")[2] == end
        assert (b"chunked" in said) == bool(end)

    noted(use)


def test_an_end_of_chunks_that_comes_alone_is_said_alone() -> None:
    def use(connected: Connected) -> None:
        connected.client.begin(200, b"", None)
        connected.client.write_body(b"one", False)
        connected.client.end()
        assert connected.transport.writes[1:] == [b"0\r\n\r\n"]

    noted(use)


def test_the_data_path_hears_of_a_request_when_its_turn_has_come() -> None:
    def use(connected: Connected) -> None:
        assert [what for what, _ in connected.heard] == ["head", "whole"]
        connected.side.data_received(ask(BODY))
        assert len(connected.heard) == 2
        connected.client.begin(200, b"", 0)
        connected.client.end()
        assert len(connected.heard) == 2, "not from within the end of the one before"

    noted(use)


def test_what_is_lost_is_told_once_and_only_of_a_request_that_was_not_whole() -> None:
    def use(connected: Connected) -> None:
        connected.client.begin(200, b"", 0)
        connected.client.end()
        connected.side.data_received(ask(BODY)[:-1])
        connected.side.connection_lost(None)
        connected.side.connection_lost(None)
        assert [what for what, _ in connected.heard] == ["head", "whole", "head", "body", "lost"]

    noted(use)
