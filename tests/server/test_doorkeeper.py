"""Who gets what with which key, and what does a worker see of it? Through the whole gateway, over real sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opened_gateway import PLAIN, Answer, Exchange, Opened, ask, opened, run

from artifacts.errors import ServingError
from artifacts.keys import add_key
from server.doorkeeper import Doorkeeper, is_local
from server.keys import Keyring


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


def get(path: str, fields: str = "", method: str = "GET") -> bytes:
    return ask(b"", path=path, fields=fields, method=method)


def ring_of(folder: Path, **rate: Any) -> tuple[Keyring, dict[str, str]]:
    path = folder / "keys.json"
    keys = {"ask": add_key(path, "asker", "ask", **rate), "control": add_key(path, "pilot", "control")}
    return Keyring(path, lambda told: None), keys


OPEN = [("GET", "/health"), ("GET", "/ready"), ("HEAD", "/health")]
READS = [("GET", "/v1/models"), ("GET", "/v1/models/a"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/none")]
STEERS = [("POST", "/variants/a/sleep"), ("POST", "/fleet/reload"), ("DELETE", "/v1/models/a"), ("POST", "/sleep")]
ASKS = [("POST", "/v1/completions"), ("POST", "/v1/messages"), ("POST", "/tokenize"), ("POST", "/v1/some/thing")]
KEYLESS = [
    *(
        (method, path, "none", 401)
        for method, path in (*READS, *STEERS, *ASKS, ("GET", "/health/"), ("POST", "/health"))
    ),
    *((method, path, "wrong", 401) for method, path in (*READS, *STEERS, *ASKS)),
    *((method, path, "ask", 403) for method, path in (*STEERS, ("POST", "/health"))),
    *((method, path, "ask", 0) for method, path in (*READS, *ASKS)),
    *((method, path, "control", 0) for method, path in (*READS, *STEERS, *ASKS)),
    *((method, path, who, 0) for method, path in OPEN for who in ("none", "wrong", "ask")),
]


def test_who_may_do_what(tmp_path: Path) -> None:
    ring, keys = ring_of(tmp_path)
    fields = {"none": "", "wrong": bearer("sk-wrong"), **{role: bearer(key) for role, key in keys.items()}}

    async def test() -> None:
        async with opened(tmp_path, keyring=ring) as gateway:
            for method, path, who, status in KEYLESS:
                peer = await gateway.connect()
                await peer.send(ask(method=method, path=path, fields=fields[who]))
                found, headers = await peer.head()
                case = f"{method} {path} with {who}"
                assert (found if found in (401, 403) else 0) == status, case
                assert (headers.get("www-authenticate") == "bearer") == (found == 401), case
            reached = [request.partition(b" HTTP")[0].decode() for request in gateway.requests]
            assert sorted(reached) == sorted(f"{method} {path}" for method, path in ASKS * 2)

    run(test())


def test_a_worker_gets_no_key_that_was_checked_and_every_key_that_was_not(tmp_path: Path) -> None:
    ring, keys = ring_of(tmp_path)
    fields = f"{bearer(keys['ask'])}X-API-Key: {keys['ask']}\r\nX-Other: 1\r\n"

    async def asked(keyring: Keyring | None) -> bytes:
        async with opened(tmp_path, keyring=keyring) as gateway:
            assert (await gateway.asked(ask(fields=fields))).status == 200
            return gateway.requests[0]

    async def test() -> None:
        checked, unchecked = await asked(ring), await asked(None)
        assert keys["ask"].encode() not in checked
        assert b"authorization" not in checked
        assert b"\r\nx-other: 1\r\n" in checked
        assert unchecked.count(keys["ask"].encode()) == 2

    run(test())


WRONG_KEYS = [
    (b"", "missing_api_key"),
    (b"Authorization: Basic YTpi\r\n", "missing_api_key"),
    (b"Authorization: Bearer \xff\xfe\xc3\xa4\r\n", "invalid_api_key"),
    (b"x-api-key: " + "schlüssel".encode() + b"\r\n", "invalid_api_key"),
    (b"Authorization: Bearer " + b"k" * 30_000 + b"\r\n", "invalid_api_key"),
    (b"Authorization: Bearer KEY\r\nAuthorization: Bearer other\r\n", "invalid_api_key"),
    (b"x-api-key: other\r\nAuthorization: Bearer KEY\r\n", "invalid_api_key"),
]


@pytest.mark.parametrize(("fields", "code"), WRONG_KEYS, ids=[repr(fields[:40]) for fields, _ in WRONG_KEYS])
def test_malformed_keys_are_refused_in_the_envelope(tmp_path: Path, fields: bytes, code: str) -> None:
    ring, keys = ring_of(tmp_path)
    sent = ask().replace(b"Host: h\r\n", b"Host: h\r\n" + fields.replace(b"KEY", keys["ask"].encode()))

    async def test() -> None:
        async with opened(tmp_path, keyring=ring) as gateway:
            peer = await gateway.connect()
            await peer.send(sent)
            refused = await peer.answer()
            assert (refused.status, refused.code) == (401, code)
            assert json.loads(refused.body)["error"]["type"] == "invalid_request_error"
            await peer.send(ask(fields=bearer(keys["ask"])))
            assert (await peer.answer()).status == 200, "the connection goes on"
            assert [request.code for request in gateway.observed] == [401, 200]
            assert len(gateway.requests) == 1

    run(test())


def test_a_key_is_used_up_by_its_rate_and_says_what_is_left(tmp_path: Path) -> None:
    ring, keys = ring_of(tmp_path, requests_per_minute=6, burst=3)
    rated, free = bearer(keys["ask"]), bearer(keys["control"])

    async def relimited(exchange: Exchange) -> None:
        await exchange.say(PLAIN.replace(b"\r\n\r\n", b"\r\nX-RateLimit-Remaining-Requests: 99\r\n\r\n"))

    async def test() -> None:
        async with opened(tmp_path, relimited, keyring=ring) as gateway:
            sent = [ask(fields=rated), get("/v1/models", rated), ask(b"no json", fields=rated), ask(fields=rated)]
            answers = [await gateway.asked(request) for request in sent]
            assert [answer.status for answer in answers] == [200, 200, 400, 429]
            assert [_limits(answer) for answer in answers] == [("3", "2"), ("3", "1"), ("3", "0"), ("3", "0")]
            refused = answers[-1]
            assert (refused.code, refused.headers["retry-after"]) == ("rate_limit_exceeded", "10")
            other = await gateway.asked(ask(fields=free))
            assert (other.status, _limits(other)) == (200, (None, "99"))
            assert (await gateway.asked(get("/health", rated))).status == 200
            assert len(gateway.requests) == 2

    run(test())


def _limits(answer: Answer) -> tuple[str | None, str | None]:
    return tuple(answer.headers.get(f"x-ratelimit-{what}-requests") for what in ("limit", "remaining"))  # type: ignore[return-value]


async def _parallel(gateway: Opened, fields: str, number: int) -> list[int]:
    return [
        answer.status for answer in await asyncio.gather(*(gateway.asked(ask(fields=fields)) for _ in range(number)))
    ]


def test_many_at_once_share_one_bucket(tmp_path: Path) -> None:
    ring, keys = ring_of(tmp_path, requests_per_minute=1, burst=7)

    async def test() -> None:
        async with opened(tmp_path, keyring=ring) as gateway:
            statuses = await _parallel(gateway, bearer(keys["ask"]), 30)
            assert (statuses.count(200), statuses.count(429)) == (7, 23)

    run(test())


CLIENTS = [
    (None, True),
    (("127.0.0.1", 5), True),
    (("127.9.9.9", 5), True),
    (("::1", 5), True),
    (("::ffff:127.0.0.1", 5), True),
    (("10.0.0.1", 5), False),
    (("::ffff:10.0.0.1", 5), False),
    (("fe80::1%eth0", 5), False),
    (("2001:db8::1", 5), False),
    (("0.0.0.0", 5), False),
]


@pytest.mark.parametrize(("client", "local"), CLIENTS)
def test_without_keys_only_this_machine_steers(client: tuple[str, int] | None, local: bool) -> None:
    async def send(message: Any) -> None: ...

    assert is_local({"client": client, "headers": []}) == local
    door = Doorkeeper(None)
    for method, path in STEERS:
        scope = {"method": method, "path": path, "client": client, "headers": []}
        if local:
            assert door.admit(scope, send, forwarded=False) is send
            continue
        with pytest.raises(ServingError) as refused:
            door.admit(scope, send, forwarded=False)
        assert (refused.value.status, refused.value.code) == (403, "control_is_local")
    for method, path in (*READS, *OPEN, *ASKS):
        scope = {"method": method, "path": path, "client": client, "headers": []}
        assert door.admit(scope, send, forwarded=(method, path) in ASKS) is send


ORIGINS = [
    (b"http://127.0.0.1:8000", True),
    (b"http://localhost:3000", True),
    (b"http://[::1]", True),
    (b"https://example.org", False),
    (b"http://127.0.0.1.example.org", False),
    (b"http://localhost.example.org", False),
    (b"http://example.org/localhost", False),
    (b"null", False),
    (b"", False),
    (b"http://[::1", False),
    (b"http://\xff", False),
]


@pytest.mark.parametrize(("origin", "local"), ORIGINS)
def test_a_page_from_elsewhere_does_not_steer_through_a_browser_here(origin: bytes, local: bool) -> None:
    scope = {"client": ("127.0.0.1", 5), "headers": [(b"host", b"127.0.0.1"), (b"origin", origin)]}
    assert is_local(scope) == local
    assert not is_local({**scope, "client": ("10.0.0.1", 5)})
