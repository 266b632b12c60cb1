"""A port where something else than HTTP listens, or hangs up in the middle, is one sentence like any other."""

from __future__ import annotations

import pytest
from raw_server import raw_server

from artifacts.errors import LoadTestError
from loadtest.endpoint import Endpoint

NONSENSE = [
    (b"SSH-2.0-OpenSSH_9.6\r\n", "another protocol"),
    (b"", "a connection that is closed at once"),
    (b"HTTP/1.1 OK\r\n\r\n", "a status that is no number"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "a body that was cut off"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "a chunk that was cut off"),
]


@pytest.mark.parametrize(("raw", "what"), NONSENSE, ids=[what for _, what in NONSENSE])
def test_nonsense_is_a_server_that_cannot_be_reached(raw: bytes, what: str) -> None:
    with raw_server(raw) as (url, _), pytest.raises(LoadTestError, match="cannot be reached") as caught:
        Endpoint(url).models()
    assert str(caught.value).endswith("Start the server or correct the URL."), what


@pytest.mark.parametrize(("raw", "what"), NONSENSE, ids=[what for _, what in NONSENSE])
def test_nonsense_instead_of_metrics_is_no_metrics(raw: bytes, what: str) -> None:
    with raw_server(raw) as (url, _):
        assert Endpoint(url).metrics() is None, what


@pytest.mark.parametrize("url", ["http://a b", "http://" + "a" * 64 + ".example", "http://x..y"])
def test_a_host_that_no_resolver_takes_is_one_sentence(url: str) -> None:
    with pytest.raises(LoadTestError, match="cannot be reached"):
        Endpoint(url).models()
