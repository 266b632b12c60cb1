"""What does the load tester make of whatever a server may answer? Models, or one sentence, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from raw_server import raw_server

from artifacts.errors import LoadTestError
from loadtest.endpoint import Endpoint, require_models


def answer(body: object, status: str = "200 OK") -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text.encode())}\r\nConnection: close\r\n\r\n{text}".encode()


def test_models_come_by_name_with_all_that_is_said_about_them() -> None:
    entries = [{"id": "a", "max_model_len": 9}, {"id": "b", "prunebench": {"fingerprint": "f"}}]
    with raw_server(answer({"object": "list", "data": entries})) as (url, requests):
        assert Endpoint(url).models() == {"a": entries[0], "b": entries[1]}
    assert requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization" not in requests[0].lower()


def test_the_key_and_the_prefix_are_sent() -> None:
    with raw_server(answer({"data": [{"id": "a"}]})) as (url, requests):
        Endpoint(url + "/team/v1/", api_key="secret").models()
    assert requests[0].startswith(b"GET /team/v1/models ")
    assert b"Authorization: Bearer secret\r\n" in requests[0]


NO_LISTS = [
    ("", "nothing"),
    ("<html>", "a web page"),
    ([], "a bare list"),
    (None, "null"),
    ({}, "no `data`"),
    ({"data": None}, "null in its place"),
    ({"data": 3}, "a number in its place"),
    ({"data": ["a"]}, "names instead of entries"),
    ({"data": [{"name": "a"}]}, "entries without an id"),
    ({"error": {"message": "no"}}, "an error with status 200"),
]


@pytest.mark.parametrize(("body", "what"), NO_LISTS, ids=[what for _, what in NO_LISTS])
def test_what_is_no_list_of_models_is_said(body: object, what: str) -> None:
    with (
        raw_server(answer(body)) as (url, _),
        pytest.raises(LoadTestError, match="something else than a list of models"),
    ):
        Endpoint(url).models()


def test_a_server_without_models_is_said() -> None:
    with raw_server(answer({"data": []})) as (url, _), pytest.raises(LoadTestError, match="serves no model"):
        Endpoint(url).models()


STATUSES = [
    ("401 Unauthorized", "answered 401 Unauthorized. Give a valid API key.", "no key"),
    ("403 Forbidden", "answered 403 Forbidden. Give a valid API key.", "the wrong key"),
    ("404 Not Found", "answered 404 Not Found. Give the URL of a working server.", "another service"),
    ("500 Oops", "answered 500 Oops. Give the URL of a working server.", "a broken server"),
    ("503 Busy", "answered 503 Busy. Give the URL of a working server.", "a server that is not ready"),
]


@pytest.mark.parametrize(("status", "sentence", "what"), STATUSES, ids=[what for *_, what in STATUSES])
def test_a_refusal_is_told_with_its_remedy(status: str, sentence: str, what: str) -> None:
    with raw_server(answer("{}", status)) as (url, _), pytest.raises(LoadTestError) as caught:
        Endpoint(url).models()
    assert str(caught.value) == f"{url}/v1/models {sentence}", what


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops"])
def test_a_server_without_metrics_has_none(status: str) -> None:
    with raw_server(answer("", status)) as (url, _):
        assert Endpoint(url).metrics() is None


def test_metrics_are_handed_on_as_text_whatever_their_bytes() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nup{x=\xff} "
    with raw_server(page) as (url, requests):
        assert Endpoint(url).metrics() == "up{x=�} "
    assert requests[0].startswith(b"GET /metrics ")


def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be measured instead of the server."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with raw_server(answer({"data": [{"id": "a"}]})) as (url, _):
        assert set(Endpoint(url).models()) == {"a"}


URLS = [
    ("http://h", "http://h", "a bare host"),
    ("http://h:80/", "http://h:80", "a slash at the end"),
    ("http://h:8000/v1", "http://h:8000", "as OpenAI's clients write it"),
    ("http://h/team/v1/", "http://h/team", "behind a prefix"),
    ("http://h/v1?key=1", "http://h", "a query is dropped"),
    ("http://[::1]:8000/v1", "http://[::1]:8000", "an IPv6 address"),
    ("HTTP://h", "HTTP://h", "schemes have no case"),
]


@pytest.mark.parametrize(("given", "base", "what"), URLS, ids=[what for *_, what in URLS])
def test_base_url(given: str, base: str, what: str) -> None:
    assert Endpoint(given).url == base, what


@pytest.mark.parametrize(
    "given", ["h", "h:8000", "ftp://h", "http://", "http:///v1", "http://h:0", "http://h:99999", "http://[::1"]
)
def test_what_is_no_address_is_refused_before_any_packet(given: str) -> None:
    with pytest.raises(LoadTestError, match=r"is no usable address\. Give one of the form http://host:port"):
        Endpoint(given)


LIMITS: list[tuple[dict[str, object], int, bool, str]] = [
    ({}, 10**6, True, "a server that states no limit is believed"),
    ({"max_model_len": 100}, 100, True, "exactly the limit fits"),
    ({"max_model_len": 100}, 101, False, "one more does not"),
    ({"max_model_len": None}, 101, True, "null is no limit"),
    ({"max_model_len": "100"}, 101, True, "nor is text"),
]


@pytest.mark.parametrize(("entry", "total_tokens", "fits", "why"), LIMITS, ids=[why for *_, why in LIMITS])
def test_lengths_are_checked_against_the_models_own(
    entry: dict[str, object], total_tokens: int, fits: bool, why: str
) -> None:
    def check() -> None:
        require_models({"a": entry, "b": {}}, ("b", "a"), total_tokens)

    if fits:
        check()
    else:
        refused(check, "Prompt and output make 101 tokens, model 'a' takes 100.")


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    refused(lambda: require_models({"b": {}, "a": {}}, ("c",), 1), "Model 'c' is not served. Choose from: a, b.")


def refused(check: Callable[[], None], sentence: str) -> None:
    with pytest.raises(LoadTestError) as caught:
        check()
    assert sentence in str(caught.value)
