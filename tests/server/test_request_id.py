"""Has every request one name, the client's own where that is fit, the same at the worker and in every answer, once?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from data_path import PLAIN, STREAM, Caller, DataPath, chunk, forwarding
from serving_process import Serving

from server.request_id import MAX_BYTES, RequestIds, is_fit

MADE = re.compile(rb"[0-9a-f]{16}-[0-9a-f]+")
GIVEN = [
    (b"mine", True, "a plain name"),
    (b"a b/c:{d}~!", True, "anything printable"),
    (b"x" * MAX_BYTES, True, "as long as allowed"),
    (b"x" * (MAX_BYTES + 1), False, "one byte too long"),
    (b"", False, "nothing"),
    (b"a\tb", False, "a tab would break a log's columns"),
    (b"a\x7fb", False, "a control character"),
    (b"\xc3\xa4", False, "no ASCII"),
]


@pytest.mark.parametrize(("given", "fit", "why"), GIVEN, ids=[why for *_, why in GIVEN])
def test_a_fit_name_is_kept_and_another_replaced(given: bytes, fit: bool, why: str) -> None:
    assert is_fit(given) == fit, why
    named = RequestIds().of([(b"host", b"h"), (b"x-request-id", given)])
    assert (named == given) == fit
    assert fit or MADE.fullmatch(named)


def test_names_that_are_made_never_repeat_among_servers() -> None:
    servers = [RequestIds(), RequestIds()]
    made = [server.of([]) for server in servers for _ in range(1000)]
    assert len(set(made)) == 2000
    assert {len(name.partition(b"-")[0]) for name in made} == {16}


def test_the_first_fit_one_of_several_counts() -> None:
    headers = [(b"x-request-id", value) for value in (b"", b"first", b"second")]
    assert RequestIds().of(headers) == b"first"


ECHO = PLAIN.replace(b"X-Own: 1\r\n", b"X-Request-Id: the worker's\r\nx-prunebench-variant: behind\r\n")


@pytest.mark.parametrize("sent", [(), (b"mine",), (b"mine", b"again"), (b"\xff",)])
@pytest.mark.parametrize("answer", [PLAIN, ECHO], ids=["silent", "echo"])
def test_worker_and_client_hear_the_same_name_once(tmp_path: Path, sent: tuple[bytes, ...], answer: bytes) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller(headers=tuple((b"x-request-id", value) for value in sent)))
        heard = [value for name, value in client.got if name == b"x-request-id"]
        assert len(heard) == 1
        assert path.requests[0].lower().count(b"\r\nx-request-id: ") == 1
        assert b"\r\nx-request-id: " + heard[0] + b"\r\n" in path.requests[0]
        assert path.observed[0].id == heard[0]
        assert heard == [b"mine"] if sent[:1] == (b"mine",) else MADE.fullmatch(heard[0])
        assert [value for name, value in client.got if name == b"x-prunebench-variant"] == [b"a"]

    forwarding(tmp_path, answer, use)


@pytest.mark.parametrize(
    "body", [b"{", b'{"model": "nobody"}', b'{"model": "a"}' + b" " * 99], ids=["400", "404", "413"]
)
def test_a_refusal_carries_it_too(tmp_path: Path, body: bytes) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller(body=body, headers=((b"x-request-id", b"mine"),)))
        assert client.got.count((b"x-request-id", b"mine")) == 1
        assert path.requests == []

    forwarding(tmp_path, PLAIN, use, limits={"max_body_bytes": 64})


@pytest.mark.parametrize("answer", [b"", STREAM + chunk(b"data: 1\n\n")], ids=["502", "torn"])
def test_a_lost_worker_does_not_lose_it(tmp_path: Path, answer: bytes) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller(headers=((b"x-request-id", b"mine"),)))
        assert client.got.count((b"x-request-id", b"mine")) == 1

    forwarding(tmp_path, answer, use)


TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    "baggage": "userId=alice,  isProduction=false",
}


@pytest.mark.parametrize("sent", [TRACE, {}, {"tracestate": "a=b"}], ids=["all", "none", "one"])
def test_trace_context_passes_as_it_is_and_none_is_invented(tmp_path: Path, sent: dict[str, str]) -> None:
    async def use(path: DataPath) -> None:
        await path.ask(Caller(headers=tuple((name.encode(), value.encode()) for name, value in sent.items())))
        arrived = dict(line.partition(": ")[::2] for line in path.requests[0].decode().split("\r\n")[1:-2])
        assert {name: arrived[name] for name in TRACE if name in arrived} == sent

    forwarding(tmp_path, PLAIN, use)


EVERYWHERE = [
    ("GET", "/health", 200),
    ("GET", "/v1/models", 200),
    ("GET", "/v1/models/nobody", 404),
    ("GET", "/metrics", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/nothing", 404),
    ("POST", "/health", 405),
    ("GET", "/v1/completions", 405),
    ("GET", "/v1/nothing", 404),
    ("POST", "/v1/completions", 200),
    ("POST", "/v1/nothing", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), EVERYWHERE)
def test_every_answer_of_the_server_has_one(pair: Serving, method: str, path: str, status: int) -> None:
    body = json.dumps({"model": "dense", "prompt": "x", "max_tokens": 2})
    for sent in ({"x-request-id": "mine"}, {}):
        answer = pair.client.request(method, path, content=body, headers=sent)
        assert answer.status_code == status
        (heard,) = answer.headers.get_list("x-request-id")
        assert heard == "mine" if sent else MADE.fullmatch(heard.encode())


def test_requests_of_one_connection_have_names_of_their_own(pair: Serving) -> None:
    with httpx.Client(base_url=pair.url) as client:
        body = {"model": "dense", "prompt": "x", "max_tokens": 1}
        heard = [client.post("/v1/completions", json=body).headers["x-request-id"] for _ in range(20)]
    assert len(set(heard)) == 20
