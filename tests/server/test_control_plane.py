"""Does the control plane tell the truth about every variant, and does it keep OpenAI's shapes when it refuses?"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifacts.fleet import Fleet
from server.checkpoint import Checkpoint
from server.connection import UpstreamLost
from server.control import model_entry, worker_metrics
from server.gateway import Gateway
from server.lifecycle import STATES, Lifecycle, State
from server.metrics import GatewayMetrics, ObservedRequest
from server.registry import Registry, ServedVariant, addresses_of

FLEET = {
    "variants": [
        {"name": "dense", "engine": "sim"},
        {"name": "small", "model": "org/small"},
        {"name": "far", "url": "http://far:9/team/v1"},
    ]
}


def registry_in(*states: State) -> Registry:
    registry = Registry(Fleet.parse(FLEET, "the test's fleet"), "/run")
    for variant, state in zip(registry, states, strict=False):
        variant.lifecycle = Lifecycle(state=state, reason="boom" if state == "backoff" else None)
    return registry


def ask(registry: Registry, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of one request to the gateway."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "root_path": "",
        "scheme": "http",
        "server": ("h", 80),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }
    asyncio.run(Gateway(registry, GatewayMetrics(registry))(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


READINESS: list[tuple[tuple[State, ...], bool, int, str]] = [
    (("ready", "ready", "ready"), False, 200, "all have generated a token"),
    (("ready", "ready", "starting"), False, 503, "one is still loading"),
    (("ready", "backoff", "ready"), False, 503, "one has died"),
    (("queued", "queued", "queued"), False, 503, "none has begun"),
    (("ready", "ready", "ready"), True, 503, "the server is about to end"),
]


@pytest.mark.parametrize(("states", "draining", "status", "why"), READINESS, ids=[why for *_, why in READINESS])
def test_ready(states: tuple[State, ...], draining: bool, status: int, why: str) -> None:
    registry = registry_in(*states)
    registry.draining = draining
    found, _, body = ask(registry, "/ready")
    fields = json.loads(body)
    assert (found, fields["ready"], fields["draining"]) == (status, status == 200, draining), why
    assert [variant["state"] for variant in fields["variants"].values()] == list(states)
    assert {v["reason"] for v in fields["variants"].values()} <= {None, "boom"}


@pytest.mark.parametrize("state", STATES)
def test_the_gateway_is_alive_whatever_its_variants_do(state: State) -> None:
    status, _, body = ask(registry_in(state, state, state), "/health")
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_models_are_listed_in_the_fleets_order() -> None:
    _, _, body = ask(registry_in("ready"), "/v1/models")
    listed = json.loads(body)
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["dense", "small", "far"]
    assert [entry["prunebench"]["engine"] for entry in listed["data"]] == ["sim", "vllm", "remote"]
    assert {entry["object"] for entry in listed["data"]} == {"model"}


def test_one_model_is_its_entry_in_the_list() -> None:
    registry = registry_in("backoff")
    _, _, body = ask(registry, "/v1/models/dense")
    fields = json.loads(body)
    assert (fields["id"], fields["prunebench"]["state"], fields["prunebench"]["reason"]) == ("dense", "backoff", "boom")


def test_an_entry_carries_the_fingerprint_only_of_a_checkpoint() -> None:
    dense, small, _ = registry_in("ready")
    dense.checkpoint = Checkpoint(fingerprint="f00d", manifest=None)
    about = model_entry(dense, 7)["prunebench"]
    assert (about["fingerprint"], "manifest" in about) == ("f00d", False)
    assert "fingerprint" not in model_entry(small, 7)["prunebench"]
    assert model_entry(small, 7)["created"] == 7


REFUSED = [
    ("GET", "/v1/models/other", 404, "model_not_found", "a model that is not served"),
    ("GET", "/nothing", 404, "not_found", "no such path"),
    ("GET", "/sleep", 404, "not_found", "an engine's own route is not ours"),
    ("POST", "/health", 405, "method_not_allowed", "the wrong method"),
    ("DELETE", "/v1/models", 405, "method_not_allowed", "models cannot be removed"),
    ("GET", "/v1/completions", 405, "method_not_allowed", "generation is asked for with POST"),
    ("GET", "/v1/unknown", 404, "not_found", "a path that only POST may try"),
]


@pytest.mark.parametrize(("method", "path", "status", "code", "what"), REFUSED, ids=[what for *_, what in REFUSED])
def test_refusals_have_openais_shape(method: str, path: str, status: int, code: str, what: str) -> None:
    found, headers, body = ask(registry_in("ready"), path, method)
    error = json.loads(body)["error"]
    assert (found, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"}), what
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"content-type"] == b"application/json"
    assert (b"allow" in headers) == (status == 405)


def test_exactly_one_state_of_a_variant_is_one() -> None:
    registry = registry_in("ready", "backoff", "starting")
    samples = [
        sample
        for family in text_string_to_metric_families(GatewayMetrics(registry).exposition())
        for sample in family.samples
        if sample.name == "prunebench_variant_state"
    ]
    on = {sample.labels["variant"]: sample.labels["state"] for sample in samples if sample.value}
    assert on == {"dense": "ready", "small": "backoff", "far": "starting"}
    assert sum(sample.value for sample in samples) == 3
    assert len(samples) == 3 * len(STATES)


def metric(registry: Registry, metrics: GatewayMetrics, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(metrics.exposition())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


def test_gauges_are_read_at_the_moment_of_the_scrape() -> None:
    registry = registry_in("ready")
    metrics = GatewayMetrics(registry)
    dense = next(iter(registry))
    for in_flight in (0, 3, 1):
        dense.gate.in_flight = in_flight
        assert metric(registry, metrics, "prunebench_requests_in_flight", variant="dense") == in_flight
    dense.lifecycle = Lifecycle(state="ready", restarts=4)
    assert metric(registry, metrics, "prunebench_worker_restarts_total", variant="dense") == 4


def test_a_request_without_first_byte_is_in_the_durations_alone() -> None:
    registry = registry_in("ready")
    metrics = GatewayMetrics(registry)
    for first_byte_s in (None, 1.002, 1.3):
        metrics.observe(ObservedRequest("/v1/completions", "dense", 200, began_s=1.0, first_byte_s=first_byte_s))
    assert metric(registry, metrics, "prunebench_request_duration_seconds_count", variant="dense") == 3
    assert metric(registry, metrics, "prunebench_time_to_first_byte_seconds_count", variant="dense") == 2
    total_s = metric(registry, metrics, "prunebench_time_to_first_byte_seconds_sum", variant="dense")
    assert total_s == pytest.approx(0.302)
    assert metric(registry, metrics, "prunebench_requests_total", variant="dense", code="200") == 3


@pytest.mark.parametrize("state", [state for state in STATES if state != "ready"])
def test_only_a_ready_worker_is_scraped(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scraped(monkeypatch, AssertionError("it was asked"), state) == ""


ANSWERS = [
    ((200, b"up 1\n"), "up 1\n", "its page"),
    ((200, b'up{x="\xff"} 1\n'), 'up{x="�"} 1\n', "bytes that are no text"),
    ((404, b"not here"), "", "an engine without metrics"),
    (ConnectionRefusedError(), "", "nobody listens"),
    (TimeoutError(), "", "no answer in time"),
    (UpstreamLost(), "", "it died while it answered"),
]


@pytest.mark.parametrize(("answer", "page", "what"), ANSWERS, ids=[what for *_, what in ANSWERS])
def test_a_workers_page_is_whole_or_empty(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes] | Exception, page: str, what: str
) -> None:
    assert scraped(monkeypatch, answer, "ready") == page, what


def scraped(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes] | Exception, state: State) -> str:
    async def fetch(pool: object, method: str, path: str) -> tuple[int, bytes]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("server.control.fetch", fetch)
    variant: ServedVariant = next(iter(registry_in(state)))
    return asyncio.run(worker_metrics(variant))


ADDRESSES = [
    ("dense", "/run/dense.sock", "localhost", "", "an engine of ours has a socket named like the variant"),
    ("small", "/run/small.sock", "localhost", "", "so has every other"),
    ("far", None, "far:9", "/team", "a running server is reached where it says"),
]


@pytest.mark.parametrize(
    ("name", "socket_path", "authority", "prefix", "why"), ADDRESSES, ids=[a[0] for a in ADDRESSES]
)
def test_addresses(name: str, socket_path: str | None, authority: str, prefix: str, why: str) -> None:
    variant = registry_in().get(name)
    assert variant is not None
    (address,) = addresses_of(variant.entry, "/run")
    assert (address.socket_path, address.authority, address.prefix) == (socket_path, authority, prefix), why


def test_a_registry_knows_its_names() -> None:
    registry = registry_in("ready")
    assert [registry.get(name) for name in ("other", "")] == [None] * 2
    assert registry.names == ("dense", "small", "far")
