"""The socket client: connections are kept and dropped when they should be, and every fault has a kind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from time import perf_counter_ns

import gevent
import pytest
from truth_server import Behaviour, TruthServer

from loadtest.exchange import Exchange, Place, record_of
from loadtest.prompts import request_body
from loadtest.sse import parse_answer
from loadtest.wire import StreamClient

Serve = Callable[..., TruthServer]

BODY = request_body("a", [4, 5], 6)


def sent(client: StreamClient, body: bytes = BODY) -> Exchange:
    return client.send(body, perf_counter_ns())


def test_an_answer_is_read_to_its_end_with_rising_times(serve: Serve) -> None:
    server = serve(models={"a": Behaviour(ttft_s=0.01, itl_s=0.003)})
    client = StreamClient(server.url, 5)
    exchange = sent(client)
    answer = parse_answer(exchange.timed_reads())
    times = [time for time, _ in exchange.timed_reads()]
    assert (answer.error, answer.output_tokens, len(answer.event_ns)) == (None, 6, 6)
    assert times == sorted(times)
    assert exchange.sent_ns is not None
    assert exchange.done_ns is not None
    assert exchange.scheduled_ns < times[0]  # the head; it may be there before the sender gets to look at its clock
    assert exchange.scheduled_ns < exchange.sent_ns < times[1] <= times[-1] <= exchange.done_ns
    assert not exchange.refused
    client.close()


def test_one_connection_serves_requests_in_turn_and_several_serve_them_at_once(serve: Serve) -> None:
    server = serve(models={"a": Behaviour()})
    client = StreamClient(server.url, 5)
    for _ in range(3):
        sent(client)
    assert server.connections == 1
    gevent.joinall([gevent.spawn(sent, client) for _ in range(4)], raise_error=True)
    assert server.connections == 4
    client.close()


def test_a_connection_that_was_idle_for_long_is_not_trusted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(models={"a": Behaviour()})
    client = StreamClient(server.url, 5)
    sent(client)
    monkeypatch.setattr("loadtest.wire._IDLE_LIMIT_NS", 0)
    assert parse_answer(sent(client).timed_reads()).error is None
    assert server.connections == 2
    client.close()


def test_a_broken_connection_is_not_used_again(serve: Serve) -> None:
    server = serve(models={"a": Behaviour(fail_every=2, drop_after_tokens=3)})
    client = StreamClient(server.url, 5)
    kinds = [parse_answer(sent(client).timed_reads()).error for _ in range(4)]
    assert [None if kind is None else kind.split(":")[0] for kind in kinds] == [None, "closed", None, "closed"]
    assert server.connections == 2
    client.close()


def test_a_refusal_is_seen_at_once_and_keeps_the_connection(serve: Serve) -> None:
    server = serve(models={"a": Behaviour(status=429)})
    client = StreamClient(server.url, 5)
    first, second = sent(client), sent(client)
    assert first.refused
    assert parse_answer(second.timed_reads()).error == "http_429: overloaded"
    assert server.connections == 1
    client.close()


def test_a_timeout_ends_the_request_and_the_connection(serve: Serve) -> None:
    server = serve(models={"a": Behaviour(ttft_s=20)})
    client = StreamClient(server.url, 0.05)
    exchange = sent(client)
    assert exchange.failure == "timeout: no complete answer within 0.05 s"
    assert exchange.done_ns is not None
    assert 0.05 <= (exchange.done_ns - exchange.scheduled_ns) / 1e9 < 2


def test_the_key_and_the_path_prefix_are_sent(serve: Serve) -> None:
    server = serve(models={"a": Behaviour()}, api_key="sesame")
    with_key, without = StreamClient(server.url, 5, "sesame"), StreamClient(server.url + "/prefix", 5)
    assert parse_answer(sent(with_key).timed_reads()).error is None
    assert parse_answer(sent(without).timed_reads()).error == "http_401: no key"
    assert server.paths == ["/v1/completions", "/prefix/v1/completions"]
    with_key.close()
    without.close()


def answering_once(raw: bytes) -> str:
    """A server that reads one request, says `raw` and hangs up; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(raw)

    threading.Thread(target=serve_one, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(b"", "closed", id="hung up without a word"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "closed", id="hung up inside the body"),
        pytest.param(b"220 smtp ready\r\n", "malformed", id="another protocol"),
    ],
)
def test_a_server_that_hangs_up_or_speaks_nonsense_is_recorded(raw: bytes, kind: str) -> None:
    exchange = sent(StreamClient(answering_once(raw), 5))
    record = record_of(exchange, Place(model="a", arm=0, block=0, index=0, warmup=False), exchange.scheduled_ns)
    assert record.failure_kind == kind
    assert not record.ok
    assert record.scheduled_s == 0


def test_nobody_listening_is_a_failure_to_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    exchange = sent(StreamClient(f"http://127.0.0.1:{port}", 5))
    assert exchange.failure is not None
    assert exchange.failure.startswith("connect:")
    assert exchange.sent_ns is None
    assert exchange.refused
