"""Is an answer's end found wherever the reads are cut, and are times the kernel's, however late they are read?"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from time import perf_counter_ns

import gevent
import pytest

from loadtest.exchange import Exchange, Place, calendar_ahead_ns, record_of
from loadtest.reception import Receiver, stamp_arrivals
from loadtest.wire import StreamClient

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"text": "a"}]}\n\n'
PLACE = Place(model="m", arm=0, block=0, index=0, warmup=False)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's end that does not block, and a server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setblocking(False)
    stamp_arrivals(client)
    with client, server:
        yield client, server


def received(client: socket.socket, server: socket.socket, pieces: list[bytes], hang_up: bool = False) -> tuple:  # type: ignore[type-arg]
    """What the receiver makes of these writes, each read on its own: (exchange, keep)."""
    receiver, exchange = Receiver(), Exchange(0)
    waiting = gevent.spawn(receiver.receive, client, exchange)
    for number, piece in enumerate(pieces):
        server.sendall(piece)
        deadline_ns = perf_counter_ns() + 5 * 10**9
        while len(exchange.reads) <= number and not waiting.ready():
            assert perf_counter_ns() < deadline_ns
            gevent.sleep(0)
    if hang_up:
        server.close()
    keep = waiting.get(timeout=5)
    receiver.close()
    return exchange, keep


WHOLE = HEAD + chunk(EVENT) + b"0\r\n\r\n"
ENDINGS = [
    ([WHOLE], True, "in one read"),
    ([HEAD, chunk(EVENT), b"0\r\n\r\n"], True, "part by part"),
    ([WHOLE[:-1], WHOLE[-1:]], True, "the last byte alone"),
    ([WHOLE[:-2], WHOLE[-2:]], True, "half of the empty line alone"),
    ([WHOLE[:-3], WHOLE[-3:]], True, "three bytes alone"),
    ([WHOLE[:-4], WHOLE[-4:]], True, "the empty line alone"),
    ([HEAD[:30], HEAD[30:] + chunk(EVENT), b"0\r\n\r\n"], True, "the head in two"),
    ([HEAD + chunk(EVENT), b"0\r\nX-Sum: 1\r\n\r\n"], True, "with a trailer"),
    ([HEAD, chunk(b"data: 1\r\n\r\n"), chunk(b"data: 0\r\n\r\n"), b"0\r\n\r\n"], True, "after events with CRLF lines"),
    ([HEAD.upper(), chunk(EVENT), b"0\r\n\r\n"], True, "whatever the header's case"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"ab", b"cd"], True, "by a counted body"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", b"a\r\n\r\n", b"bcd"], True, "by the count, not by a look"),
    ([HEAD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"0\r\n\r\n"], False, "and the server wants no more"),
    ([b"220 smtp ready\r\n"], False, "because it is another protocol"),
]


@pytest.mark.parametrize(("pieces", "keep", "what"), ENDINGS, ids=[what for *_, what in ENDINGS])
def test_an_answer_ends(pair: tuple[socket.socket, socket.socket], pieces: list[bytes], keep: bool, what: str) -> None:
    exchange, kept = received(*pair, pieces)
    assert (kept, exchange.failure) == (keep, None), what
    assert b"".join(data for _, data in exchange.reads) == b"".join(pieces)


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_an_answer_is_whole_wherever_it_is_cut(pair: tuple[socket.socket, socket.socket], cut: int) -> None:
    exchange, keep = received(*pair, [WHOLE[:cut], WHOLE[cut:]])
    assert keep
    assert len(exchange.reads) == 2


CUT_OFF = [
    ([], "closed: the server closed the connection before it answered", "before a word"),
    ([HEAD], None, "after the head"),
    ([HEAD, chunk(EVENT)], None, "after an event"),
]


@pytest.mark.parametrize(("pieces", "failure", "what"), CUT_OFF, ids=[what for *_, what in CUT_OFF])
def test_a_hang_up_ends_it_and_is_no_read(
    pair: tuple[socket.socket, socket.socket], pieces: list[bytes], failure: str | None, what: str
) -> None:
    exchange, keep = received(*pair, pieces, hang_up=True)
    assert (keep, exchange.failure) == (False, failure), what
    assert len(exchange.reads) == len(pieces)
    assert record_of(exchange, PLACE, 0).failure_kind == "closed"


def test_a_reset_is_raised(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    receiver = Receiver()
    waiting = gevent.spawn(receiver.receive, client, Exchange(0))
    gevent.sleep(0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    with pytest.raises(ConnectionResetError):
        waiting.get(timeout=5)


def test_a_piece_has_the_time_of_its_arrival_however_late_it_is_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Both pieces lie there for 30 ms before anybody reads; the first is 20 ms older than the second."""
    client, server = pair
    sent_ns = []
    for piece, then_s in ((HEAD + chunk(EVENT), 0.02), (chunk(EVENT) + b"0\r\n\r\n", 0.03)):
        sent_ns.append(perf_counter_ns())
        server.sendall(piece)
        time.sleep(then_s)
    exchange, _ = received(client, server, [])
    exchange.ahead_ns = (calendar_ahead_ns(),) * 2
    read_ns = perf_counter_ns()
    ((arrived_ns, data),) = exchange.timed_reads()
    assert data.endswith(b"0\r\n\r\n")  # one read takes both and has the time of the later
    assert sent_ns[1] - 100_000 < arrived_ns < sent_ns[1] + 10_000_000
    assert read_ns - arrived_ns > 29_000_000


def test_many_connections_are_read_by_one_receiver_and_it_rests_afterwards() -> None:
    receiver, exchanges, servers, clients = Receiver(), [], [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(20):
            clients.append(socket.create_connection(listener.getsockname()))
            servers.append(listener.accept()[0])
            clients[-1].setblocking(False)
            exchanges.append(Exchange(0))
    waiting = [gevent.spawn(receiver.receive, *both) for both in zip(clients, exchanges, strict=True)]
    gevent.sleep(0)
    for server in servers:
        server.sendall(WHOLE)
    assert [greenlet.get(timeout=5) for greenlet in waiting] == [True] * 20
    assert {data for exchange in exchanges for _, data in exchange.reads} == {WHOLE}
    assert not receiver._watcher.active
    assert receiver._readers == {}
    receiver.close()
    for end in clients + servers:
        end.close()


def test_a_greenlet_that_gives_up_is_read_for_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    receiver, exchange = Receiver(), Exchange(0)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        receiver.receive(client, exchange)
    server.sendall(WHOLE)
    gevent.sleep(0.01)
    assert exchange.reads == []
    receiver.close()


def test_a_request_larger_than_the_sockets_buffer_is_sent_whole() -> None:
    body, seen = b"x" * (1 << 24), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = StreamClient(f"http://127.0.0.1:{listener.getsockname()[1]}", 20)
        sending = gevent.spawn(client.send, body, 0)
        gevent.sleep(0.05)
        connection, _ = listener.accept()
        connection.setblocking(False)
        with connection:
            while sum(seen) < len(body):
                try:
                    seen.append(len(connection.recv(1 << 20)))
                except BlockingIOError:
                    gevent.sleep(0.001)
            connection.setblocking(True)
            connection.sendall(WHOLE)
            exchange = sending.get(timeout=10)
    assert exchange.failure is None
    assert sum(seen) > len(body)
    client.close()


@pytest.mark.parametrize(
    ("stamped", "moved_ns", "kind"),
    [
        pytest.param(True, 0, None, id="nobody touched the clock"),
        pytest.param(True, 50_000, None, id="two readings of it differ a little"),
        pytest.param(True, 10**9, "clock", id="somebody set it on by a second"),
        pytest.param(True, -(10**9), "clock", id="or back"),
        pytest.param(False, 10**9, None, id="which does not matter to the counter"),
    ],
)
def test_a_clock_that_was_set_spoils_the_request(stamped: bool, moved_ns: int, kind: str | None) -> None:
    ahead_ns = 10**18
    time_ns = 5 * 10**9
    stamp = struct.pack("qq", *divmod(time_ns + ahead_ns, 10**9)) if stamped else time_ns
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'
    whole = HEAD + chunk(EVENT) + chunk(usage) + b"0\r\n\r\n"
    exchange = Exchange(0, sent_ns=1, reads=[(stamp, whole)], ahead_ns=(ahead_ns - moved_ns, ahead_ns))
    record = record_of(exchange, PLACE, 0)
    assert record.failure_kind == kind
    assert record.event_s == (5.0,)


def test_the_difference_of_the_clocks_is_steady() -> None:
    values = [calendar_ahead_ns() for _ in range(20)]
    assert max(values) - min(values) < 100_000
