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
from server.client_side import EXTENSION, Client, ClientSide


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
        assert connected.transport.writes == [b"10\r\n" + b"x" * 16 + b"\r\n", b"3\r\nend\r\n0\r\n\r\n"]
        assert cycle.chunked_encoding is False, "uvicorn must not write a second end"
        cycle.expected_content_length = 7
        connected.client.write_body(b"1234567", True)
        assert (connected.transport.writes[2:], cycle.expected_content_length) == ([b"1234567"], 0)

    noted(use)


def at_once(coroutine: Any) -> None:
    """Runs what has nothing to wait for."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


START = {"type": "http.response.start", "status": 200, "headers": [(b"x", b"1")]}


def test_head_and_first_body_are_one_write() -> None:
    def use(connected: Connected) -> None:
        at_once(connected.client.begin(connected.side.cycle.send, START))
        assert connected.transport.writes == []
        connected.client.write_body(b"one", False)
        connected.client.write_body(b"two", True)
        at_once(connected.side.cycle.send({"type": "http.response.body", "body": b"", "more_body": False}))
        first, second, nothing = connected.transport.writes
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert first.endswith(b"\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        assert (second, nothing) == (b"3\r\ntwo\r\n0\r\n\r\n", b"")

    noted(use)


def test_a_head_that_cannot_be_sent_does_not_hold_back_what_follows() -> None:
    async def failing(message: Any) -> None:
        raise RuntimeError

    def use(connected: Connected) -> None:
        with pytest.raises(RuntimeError):
            connected.client.begin(failing, START).__await__().send(None)
        at_once(connected.side.cycle.send_500_response())
        assert b"".join(connected.transport.writes).startswith(b"HTTP/1.1 500 ")

    noted(use)
