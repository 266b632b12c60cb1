"""What of a request's headers goes on to a worker, and what is kept for the gateway?"""

from __future__ import annotations

import pytest

from server.request_head import Field, RequestHead, header_lines

OWN: list[Field] = [(b"x-own", b"1"), (b"x-own", b"2"), (b"traceparent", b"00")]
KEPT: list[Field] = [(b"content-type", b"application/json"), *OWN]
HOPS = b"connection keep-alive te trailer transfer-encoding upgrade host proxy-connection proxy-authorization".split()


def test_what_goes_on_keeps_its_order_and_its_doubles() -> None:
    fields = [(b"host", b"h"), KEPT[0], (b"te", b"x"), *KEPT[1:], (b"content-length", b"7")]
    head = RequestHead("/v1/score", b"/v1/score?a=1", fields)
    assert head.onward == b"content-type: application/json\r\nx-own: 1\r\nx-own: 2\r\ntraceparent: 00\r\n"
    assert head.onward == header_lines(KEPT)
    assert head.headers is fields


@pytest.mark.parametrize("name", HOPS)
def test_what_is_between_the_client_and_us_stays_here(name: bytes) -> None:
    assert RequestHead("/", b"/", [(name, b"1")]).onward == b""


def test_what_the_gateway_needs_is_found() -> None:
    secrets = [(b"authorization", b"Bearer k"), (b"x-api-key", b"k")]
    ids = [(b"x-request-id", b"one"), (b"x-request-id", b"two")]
    rest = [(b"content-length", b"12"), (b"expect", b"100-Continue")]
    head = RequestHead("/", b"/", [*secrets, *ids, *rest])
    assert (head.credentials, head.given_ids) == (secrets, ids)
    assert (head.declared_bytes, head.expects_continue, head.onward) == (12, True, b"")


def test_a_bare_head_needs_nothing() -> None:
    head = RequestHead("/", b"/", [(b"expect", b"something else")])
    assert (head.credentials, head.given_ids, head.declared_bytes, head.expects_continue) == ([], [], 0, False)
