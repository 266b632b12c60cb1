"""What does the data path send to the worker and to the client, and what does it count, in every way it can end?

The worker is a real connection that speaks given bytes; the client is the list of what it gets.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from data_path import BODY, PLAIN, STREAM, Caller, DataPath, chunk, forwarding

from server.checkpoint import Checkpoint
from server.lifecycle import Lifecycle
from server.metrics import CLIENT_GONE, UNKNOWN_VARIANT


def test_the_body_arrives_as_it_was_and_the_answer_too(tmp_path: Path) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller())
        assert path.requests[0].endswith(b"\r\n\r\n" + BODY)
        assert (client.status, client.answer, client.ended) == (200, b"{}", True)
        (request,) = path.observed
        assert (request.variant, request.route, request.code) == ("a", "/v1/completions", 200)
        assert request.first_byte_s is not None
        assert request.first_byte_s >= request.began_s

    forwarding(tmp_path, PLAIN, use)


HEADERS = [
    (b"authorization", True, "the engine may want a key"),
    (b"content-type", True, "what the body is"),
    (b"x-request-id", True, "what the engine logs"),
    (b"connection", False, "is between the client and us"),
    (b"keep-alive", False, "likewise"),
    (b"transfer-encoding", False, "we send the body whole"),
    (b"host", False, "the engine's own is sent"),
    (b"expect", False, "we have answered it already"),
    (b"content-length", False, "ours is sent"),
    (b"upgrade", False, "nothing is upgraded"),
]


@pytest.mark.parametrize(("name", "sent", "why"), HEADERS, ids=[name.decode() for name, *_ in HEADERS])
def test_which_request_headers_reach_the_worker(tmp_path: Path, name: bytes, sent: bool, why: str) -> None:
    async def use(path: DataPath) -> None:
        await path.ask(Caller(headers=((name, b"31"),)))
        assert (b"\r\n" + name + b": 31\r\n" in path.requests[0]) == sent, why
        assert path.requests[0].lower().count(b"content-length: ") == 1
        assert path.requests[0].count(b"host: localhost\r\n") == 1

    forwarding(tmp_path, PLAIN, use)


@pytest.mark.parametrize(("query", "target"), [(b"", b"/v1/score"), (b"a=1&b=%20", b"/v1/score?a=1&b=%20")])
def test_path_and_query_are_kept(tmp_path: Path, query: bytes, target: bytes) -> None:
    async def use(path: DataPath) -> None:
        await path.ask(Caller(path="/v1/score", query=query))
        assert path.requests[0].startswith(b"POST " + target + b" HTTP/1.1\r\n")

    forwarding(tmp_path, PLAIN, use)


@pytest.mark.parametrize("fingerprint", [None, "f00d"])
def test_answers_are_stamped_and_lose_only_hop_by_hop_headers(tmp_path: Path, fingerprint: str | None) -> None:
    answer = PLAIN.replace(b"X-Own: 1\r\n", b"X-Own: 1\r\nX-Own: 2\r\nKeep-Alive: timeout=5\r\n")

    async def use(path: DataPath) -> None:
        if fingerprint is not None:
            path.variant.checkpoint = Checkpoint(manifest=None, fingerprint=fingerprint)
        client = await path.ask(Caller(headers=((b"x-request-id", b"mine"),)))
        stamp = [] if fingerprint is None else [(b"x-prunebench-fingerprint", fingerprint.encode())]
        assert client.got == [
            (b"x-own", b"1"),
            (b"x-own", b"2"),
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
            (b"x-request-id", b"mine"),
            (b"x-prunebench-variant", b"a"),
            *stamp,
        ]

    forwarding(tmp_path, answer, use)


@pytest.mark.parametrize("status", [b"400 Bad", b"404 No", b"422 Odd", b"500 Oops"])
def test_a_workers_refusal_is_the_clients_answer(tmp_path: Path, status: bytes) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller())
        assert (client.status, client.answer, client.ended) == (int(status[:3]), b"{}", True)
        assert path.observed[0].code == int(status[:3])

    forwarding(tmp_path, PLAIN.replace(b"200 OK", status), use)


TORN = [
    (STREAM + chunk(b"data: 1\n\n"), b"data: 1\n\n", "between two events: the error is an event of its own"),
    (STREAM + chunk(b"data: 1\n\ndata: {"), b"data: 1\n\ndata: {\n\n", "inside an event: that is closed first"),
]


@pytest.mark.parametrize(("answer", "before", "what"), TORN, ids=[what for *_, what in TORN])
def test_a_torn_stream_ends_in_an_error_event_and_without_an_end(
    tmp_path: Path, answer: bytes, before: bytes, what: str
) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller())
        assert client.status == 200
        said, _, last = client.answer.rpartition(b"data: ")
        assert said == before, what
        assert json.loads(last)["error"]["code"] == "worker_lost"
        assert not client.ended
        (request,) = path.observed
        assert (request.code, request.refusal, request.bytes_out) == (502, "worker_lost", len(client.answer))

    forwarding(tmp_path, answer, use)


def test_a_torn_document_is_cut_and_gets_no_event(tmp_path: Path) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller())
        assert (client.status, client.answer, client.ended) == (200, b"{", False)
        assert path.observed[0].code == 502

    forwarding(tmp_path, PLAIN.removesuffix(b"}"), use)


LOST = [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n", STREAM, PLAIN.removesuffix(b"{}"), STREAM + b"1"]


@pytest.mark.parametrize("answer", LOST)
def test_a_worker_lost_before_its_answer_is_a_bad_gateway(tmp_path: Path, answer: bytes) -> None:
    """A head alone is no answer: the client gets a status that it can act on, not a stream that breaks off."""

    async def use(path: DataPath) -> None:
        client = await path.ask(Caller())
        assert (client.status, client.code, client.ended) == (502, "worker_lost", True)
        assert path.observed[0].code == 502

    forwarding(tmp_path, answer, use)


def test_a_worker_that_nobody_hears_is_unavailable(tmp_path: Path) -> None:
    async def use(path: DataPath) -> None:
        (tmp_path / "a.sock").unlink()
        client = await path.ask(Caller())
        assert (client.status, client.code) == (503, "worker_unreachable")
        assert path.observed[0].code == 503

    forwarding(tmp_path, PLAIN, use)


def test_a_client_that_leaves_is_counted_as_gone_and_told_nothing(tmp_path: Path) -> None:
    async def use(path: DataPath) -> None:
        client = Caller()
        asking = asyncio.create_task(path.ask(client))
        await path.arrived.wait()
        assert path.registry.held == 1
        client.leave()
        await asking
        assert (client.status, client.answer) == (0, b"")
        assert path.observed[0].code == CLIENT_GONE

    forwarding(tmp_path, b"", use, hang_up=False)


def test_only_so_many_are_admitted_and_the_rest_never_reach_the_worker(tmp_path: Path) -> None:
    async def use(path: DataPath) -> None:
        first = Caller()
        asking = asyncio.create_task(path.ask(first))
        await path.arrived.wait()
        second = await path.ask(Caller())
        assert (second.status, second.code) == (429, "too_many_requests")
        assert dict(second.got)[b"retry-after"] == b"1"
        first.leave()
        await asking
        assert len(path.requests) == 1
        assert [request.code for request in path.observed] == [429, CLIENT_GONE]

    forwarding(tmp_path, b"", use, hang_up=False, limits={"max_in_flight": 1})


UNADMITTED: list[tuple[bytes, str, bool, int, str, str]] = [
    (b'{"model": "b"}', "ready", False, 404, UNKNOWN_VARIANT, "a client's word is no label"),
    (b"{}", "ready", False, 400, UNKNOWN_VARIANT, "nobody is named"),
    (b"{", "ready", False, 400, UNKNOWN_VARIANT, "no JSON"),
    (b"{" + b" " * 99 + b"}", "ready", False, 413, UNKNOWN_VARIANT, "too large"),
    (BODY, "starting", False, 503, "a", "not ready"),
    (BODY, "stopped", False, 503, "a", "ended"),
    (BODY, "ready", True, 503, "a", "the server is about to end"),
]


@pytest.mark.parametrize(
    ("body", "state", "draining", "status", "label", "why"), UNADMITTED, ids=[row[-1] for row in UNADMITTED]
)
def test_what_is_not_admitted_is_counted_and_costs_the_worker_nothing(
    tmp_path: Path, body: bytes, state: Any, draining: bool, status: int, label: str, why: str
) -> None:
    async def use(path: DataPath) -> None:
        path.variant.lifecycle = Lifecycle(state=state)
        path.registry.draining = draining
        client = await path.ask(Caller(body=body))
        assert (client.status, client.ended) == (status, True), why
        assert [(request.variant, request.code) for request in path.observed] == [(label, status)]
        assert path.requests == []

    forwarding(tmp_path, PLAIN, use, limits={"max_body_bytes": 64})
