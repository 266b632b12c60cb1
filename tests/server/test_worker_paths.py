"""Can any spelling of a path reach something of a worker other than what is meant to be forwarded?

The worker notes what arrives. vLLM's development and operations endpoints must not be among it, however they are spelt.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from opened_gateway import BODY, Opened, opened, run

from server.gateway import is_plain

HIDDEN = (
    *("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache", "/pause"),
    *("/resume", "/abort_requests", "/server_info", "/release_kv_cache_memory", "/invocations", "/metrics", "/load"),
    *(
        "/start_profile",
        "/stop_profile",
        "/version",
        "/ping",
        "/tokenizer_info",
        "/update_weights",
        "/inference/v1/generate",
    ),
)
SPELLINGS = (
    *("{0}", "/v1/..{0}", "/v1/.{0}/../..{0}", "/v1/%2e%2e{0}", "/v1/%2E.{0}", "/v1/.%2e{0}", "/v1/%252e%252e{0}"),
    *(
        "/v1/..%2f{1}",
        "/v1%2f..%2f{1}",
        "/v1/%2e%2e%2f{1}",
        "/v1//..{0}",
        "/v1/x/../..{0}",
        "/v1/..;{0}",
        "/v1/..\\{1}",
    ),
    *(
        "//{1}",
        "/v1/{0}",
        "/v1/./{1}",
        "/v1/completions/../..{0}",
        "/tokenize/..{0}",
        "/v1{0}/",
        "/%2f{1}",
        "/v1/%2f{1}",
    ),
    *(
        "/v1/%00{0}",
        "/v1/..%5c{1}",
        "/v1/..%00{0}",
        "/v1/%0d%0a{1}",
        "/v1/..%c0%af{1}",
        "/v1/{1};x",
        "/v1/models/..{0}",
    ),
    *("http://h{0}", "http://h/v1/..{0}", "http://h/v1/%2e%2e{0}", "http://u:p@h{0}", "http://h//v1{0}/..{0}"),
)
ALLOWED = ("/v1/", "/tokenize", "/detokenize")


async def _send_all(gateway: Opened, targets: list[str]) -> dict[str, int]:
    """The status of each; all of them over few connections."""
    statuses = {}
    peer = await gateway.connect()
    for target in targets:
        head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(BODY)}\r\n\r\n"
        await peer.send(head.encode() + BODY)
        answer = await peer.answer()
        statuses[target] = answer.status
        if answer.headers.get("connection") == "close":
            peer = await gateway.connect()
    return statuses


def test_no_spelling_of_a_hidden_endpoint_reaches_a_worker(tmp_path: Path) -> None:
    targets = [spelling.format(hidden, hidden[1:]) for spelling, hidden in itertools.product(SPELLINGS, HIDDEN)]

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            statuses = await _send_all(gateway, targets)
            assert gateway.requests == []
            assert {
                target: status for target, status in statuses.items() if status not in (307, 400, 403, 404, 405)
            } == {}
            assert len(statuses) > 700

    run(test())


REACHING = [
    ("/v1/completions", "/v1/completions"),
    ("/v1/completions?x=%2e%2e/sleep", "/v1/completions?x=%2e%2e/sleep"),
    ("/v1/completions?/../sleep", "/v1/completions?/../sleep"),
    ("/v1/completions#/../sleep", "/v1/completions"),
    ("http://elsewhere:9/v1/completions?a=b", "/v1/completions?a=b"),
    ("/v1/responses/resp_1-a.b~c:d@e/cancel", "/v1/responses/resp_1-a.b~c:d@e/cancel"),
    ("/v1/...", "/v1/..."),
    ("/v1/a..b", "/v1/a..b"),
    ("/tokenize", "/tokenize"),
    ("/detokenize?q", "/detokenize?q"),
]


@pytest.mark.parametrize(("target", "arrived"), REACHING)
def test_what_is_forwarded_arrives_as_it_was_read(tmp_path: Path, target: str, arrived: str) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            assert await _send_all(gateway, [target]) == {target: 200}
            assert [request.split(b" ", 2)[1].decode() for request in gateway.requests] == [arrived]
            assert arrived.startswith(ALLOWED)

    run(test())


NOWHERE = [
    *("/v1/", "/v1//completions", "/v1/completions/", "/v1/%63ompletions", "/v1/completions%20", "/v1/com%70letions"),
    *("/%74okenize", "/tokenize/", "/V1/completions", "/v1/ü", "/v1/a|b", '/v1/a"b', "/v1/a'b", "/v1/a*b", "/v1/a(b)"),
]


@pytest.mark.parametrize("target", NOWHERE)
def test_what_could_be_read_in_two_ways_is_nowhere(tmp_path: Path, target: str) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            (status,) = (await _send_all(gateway, [target])).values()
            assert status in (400, 404)
            assert gateway.requests == []

    run(test())


def test_every_byte_in_a_query_is_refused_or_arrives(tmp_path: Path) -> None:
    """Beyond the printable ones nothing arrives; none is an error of the gateway."""

    async def test() -> None:
        async with opened(tmp_path) as gateway:
            for byte in range(256):
                before = len(gateway.requests)
                target = b"/v1/completions?a" + bytes((byte,)) + b"b"
                sent = b"POST " + target + b" HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
                answer = await gateway.asked(sent)
                arrived = gateway.requests[before:]
                assert (answer.status, len(arrived)) in ((200, 1), (400, 0)), byte
                if arrived and byte != ord("#"):
                    assert 0x20 < byte < 0x7F
                    assert arrived[0].startswith(b"POST " + target + b" ")

    run(test())


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/v1/a", True),
        ("/v1/a/b-c_d.e~f:g@h=i+j,k", True),
        ("/v1/...", True),
        ("/v1/.", False),
        ("/v1/..", False),
        ("/v1/../a", False),
        ("/v1//a", False),
        ("/v1/", False),
        ("/v1/a%41", False),
        ("/v1/a b", False),
        ("/v1/a\x00", False),
        ("/v1/a\r\nb", False),
        ("/v1/\u2025/a", False),
    ],
)
def test_plain_paths(path: str, plain: bool) -> None:
    assert is_plain(path) == plain
