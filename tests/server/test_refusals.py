"""Does every refusal have the right status, code and headers, and does the table of routes send each path home?"""

from __future__ import annotations

import json

import pytest
from metric_pages import own_page

from artifacts.errors import ServingError
from artifacts.fleet import Fleet
from server import faults
from server.ask import Ask
from server.gateway import is_forwarded
from server.metrics import FORWARDED_ROUTES, UNKNOWN_VARIANT, GatewayMetrics, ObservedRequest, route_label
from server.registry import Registry

REFUSALS = [
    (faults.unknown_model("x", ("a", "b")), 404, "model_not_found", "model", None),
    (faults.missing_model(), 400, "missing_model", "model", None),
    (faults.malformed_body("cut"), 400, "invalid_json", None, None),
    (faults.body_too_large(7), 413, "request_too_large", None, None),
    (faults.not_ready("a", "backoff", "boom"), 503, "model_not_ready", "model", b"5"),
    (faults.too_many_in_flight(3), 429, "too_many_requests", None, b"1"),
    (faults.draining(), 503, "shutting_down", None, b"5"),
    (faults.unreachable("a"), 503, "worker_unreachable", "model", b"5"),
    (faults.worker_lost("a"), 502, "worker_lost", "model", None),
    (faults.MethodNotAllowed("GET", "/x", "POST"), 405, "method_not_allowed", None, None),
    (faults.unknown_path("/x"), 404, "not_found", None, None),
    (faults.missing_key(), 401, "missing_api_key", None, None),
    (faults.unknown_key(), 401, "invalid_api_key", None, None),
    (faults.ambiguous_key(), 401, "invalid_api_key", None, None),
    (faults.not_a_control_key("a"), 403, "not_a_control_key", None, None),
    (faults.control_from_afar(), 403, "control_is_local", None, None),
    (faults.RateExceeded("a", 60, 1, 2.5), 429, "rate_limit_exceeded", None, b"3"),
    (faults.prompt_too_long("prompt", 9, 7), 400, "context_length_exceeded", "prompt", None),
    (faults.malformed_http(), 400, "invalid_http", None, None),
    (faults.no_upgrade(), 400, "upgrade_not_supported", None, None),
    (faults.headers_too_large(7), 431, "headers_too_large", None, None),
    (faults.client_too_slow("body", 2), 408, "request_timeout", None, None),
    *((faults.too_slow("a", phase, 2), 504, f"{phase}_timeout", "model", None) for phase in faults.WAITED_FOR),
]


@pytest.mark.parametrize(("error", "status", "code", "param", "retry"), REFUSALS, ids=[r[2] for r in REFUSALS])
def test_refusal(error: ServingError, status: int, code: str, param: str | None, retry: bytes | None) -> None:
    body = faults.error_body(error)
    fields = json.loads(body)["error"]
    assert set(fields) == {"message", "type", "param", "code"}
    assert (error.status, fields["code"], fields["param"]) == (status, code, param)
    assert fields["message"].endswith(".")
    headers = dict(faults.error_headers(error, body))
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers.get(b"retry-after") == retry
    assert (b"allow" in headers) == (status == 405)
    assert (b"www-authenticate" in headers) == (status == 401)


def test_client_errors_and_server_errors_have_different_types() -> None:
    types = {error.status: error.error_type for error, *_ in REFUSALS}
    assert {types[status] for status in (400, 401, 403, 404, 405, 408, 413, 431)} == {"invalid_request_error"}
    assert types[429] == "rate_limit_error"
    assert {types[status] for status in (502, 503, 504)} == {"server_error"}


def test_an_error_event_is_one_event_of_one_line() -> None:
    event = faults.error_event(faults.not_ready("a", "backoff", "two\nlines"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2


ROUTES = [
    ("/v1/completions", True),
    ("/v1/chat/completions", True),
    ("/v1/anything/new", True),
    ("/tokenize", True),
    ("/detokenize", True),
    ("/v1/models", False),
    ("/v1/models/dense", False),
    ("/v1/modelsoup", True),
    ("/v1", False),
    ("/metrics", False),
    ("/sleep", False),
    ("/collective_rpc", False),
    ("/", False),
]


@pytest.mark.parametrize(("path", "forwarded"), ROUTES)
def test_which_paths_reach_a_worker(path: str, forwarded: bool) -> None:
    assert is_forwarded(path) == forwarded


def test_route_labels_are_bounded() -> None:
    paths = [*FORWARDED_ROUTES, *(f"/v1/{index}" for index in range(100))]
    assert {route_label(path) for path in paths} == {*FORWARDED_ROUTES, "other"}


BODIES = [
    (b'{"model": "a"}', "a"),
    (b' {"x": [1, {"model": "inner"}], "model": "outer"} ', "outer"),
    (b'{"model": "\\u00e4"}', "ä"),
    (b"{}", 400),
    (b"null", 400),
    (b'{"model": null}', 400),
    (b'{"model": ["a"]}', 400),
    (b'{"model": "a"', 400),
    (b"\x80", 400),
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
def test_the_model_is_read_from_the_top_level(body: bytes, expected: str | int) -> None:
    if isinstance(expected, str):
        assert Ask.parse(body).model == expected
        return
    with pytest.raises(ServingError) as caught:
        Ask.parse(body)
    assert caught.value.status == expected


def test_requests_and_failures_are_counted_per_variant() -> None:
    fleet = Fleet.parse({"variants": [{"name": "a", "engine": "sim"}]}, "the test's fleet")
    metrics = GatewayMetrics(Registry(fleet, "/nowhere"))
    for variant, code in (("a", 200), ("a", 399), ("a", 400), ("a", 502), (UNKNOWN_VARIANT, 404)):
        metrics.observe(ObservedRequest("/v1/completions", variant, code))
    assert metrics.counts("a") == (4, 2)
    assert metrics.counts(UNKNOWN_VARIANT) == (1, 1)
    assert metrics.counts("b") == (0, 0)
    assert 'prunebench_variant_state{state="queued",variant="a"} 1.0' in own_page(metrics)
