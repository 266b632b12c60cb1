"""Does the gateway change a byte, keep a client waiting, or answer nonsense? Real HTTP over simulators."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_process import Serving, Start, eventually, resident_bytes, simulated

from tests.ports import free_port

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a b c", "max_tokens": 5}),
    ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 40, "stream": True}),
    ("/v1/completions", {"prompt": "x", "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True, "logprobs": True}),
    ("/v1/completions", {"max_tokens": 5}),
    ("/v1/nothing/here", {"prompt": "x"}),
]


@pytest.mark.parametrize(("path", "fields"), BODIES)
def test_answers_equal_those_of_the_worker_byte_for_byte(pair: Serving, path: str, fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "dense", **fields})
    [listening] = [part for part in _cmdline(pair.workers()["dense"]) if part.endswith(".sock")]
    with httpx.Client(transport=httpx.HTTPTransport(uds=listening)) as direct:
        truth = direct.post(f"http://worker{path}", content=body)
    answer = pair.client.post(path, content=body)
    assert answer.content == truth.content
    assert answer.status_code == truth.status_code
    assert answer.headers["content-type"] == truth.headers["content-type"]
    assert answer.headers["x-prunebench-variant"] == "dense"


def _cmdline(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


REFUSALS = [
    ("GET", "/v1/completions", 405, "method_not_allowed"),
    ("DELETE", "/v1/chat/completions", 405, "method_not_allowed"),
    ("PUT", "/tokenize", 405, "method_not_allowed"),
    ("POST", "/v1/models", 405, "method_not_allowed"),
    ("POST", "/health", 405, "method_not_allowed"),
    ("GET", "/v1/nothing", 404, "not_found"),
    ("GET", "/nothing", 404, "not_found"),
    ("POST", "/nothing", 404, "not_found"),
    ("GET", "/v1/models/nobody", 404, "model_not_found"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSALS)
def test_refusals_use_the_error_envelope(pair: Serving, method: str, path: str, status: int, code: str) -> None:
    answer = pair.client.request(method, path, content=b"{}")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


def test_a_body_over_the_limit_is_refused_whether_declared_or_streamed(pair: Serving) -> None:
    body = b'{"model": "dense", "prompt": "' + b"x" * (1 << 16) + b'"}'
    declared = pair.client.post("/v1/completions", content=body)
    chunked = pair.client.post("/v1/completions", content=iter([body[:100], body[100:]]))
    assert (declared.status_code, chunked.status_code) == (413, 413)
    assert declared.json()["error"]["code"] == "request_too_large"


def test_expect_continue_is_answered(pair: Serving) -> None:
    body = b'{"model": "dense", "prompt": "x", "max_tokens": 1}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", pair.port), timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def _running(serving: Serving, variant: str) -> float:
    for family in text_string_to_metric_families(serving.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "vllm:num_requests_running" and sample.labels["variant"] == variant:
                return sample.value
    raise AssertionError("the worker's page is missing")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_worker_within_100_ms(start: Start, stream: bool) -> None:
    serving = start([simulated("slow", "--itl-ms", "1000")]).until_ready()
    body = json.dumps({"model": "slow", "prompt": "x", "max_tokens": 60, "stream": stream}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as client:
        client.sendall(request)
        eventually(lambda: _running(serving, "slow") == 1, 5, "the request runs")
    gone_s = time.monotonic()
    eventually(lambda: _running(serving, "slow") == 0, 5, "the worker is idle")
    assert time.monotonic() - gone_s < 0.1
    assert serving.stop()["variants"]["slow"] == {"requests": 1, "failures": 1, "restarts": 0}


def test_a_slow_reader_stops_the_worker_instead_of_filling_memory(start: Start) -> None:
    serving = start([simulated("fast", "--ttft-ms", "0", "--itl-ms", "0")], limits={"max_in_flight": 4}).until_ready()
    body = json.dumps({"model": "fast", "prompt": "x", "max_tokens": 100_000, "stream": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    before_bytes = resident_bytes(serving.process.pid)
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as client:
        client.sendall(request)
        assert client.recv(10).startswith(b"HTTP/1.1")
        eventually(lambda: _generated(serving) >= 100_000, 60, "the worker has written 20 MB")
        assert resident_bytes(serving.process.pid) - before_bytes < 8 << 20


def _generated(serving: Serving) -> float:
    for line in serving.client.get("/metrics").text.splitlines():
        if line.startswith("vllm:generation_tokens_total"):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_requests_beyond_the_limit_are_told_to_come_back(start: Start) -> None:
    serving = start([simulated("slow", "--itl-ms", "1000")], limits={"max_in_flight": 1}).until_ready()
    body = {"model": "slow", "prompt": "x", "max_tokens": 60, "stream": True}
    with serving.client.stream("POST", "/v1/completions", json=body) as held:
        pieces = held.iter_raw()
        assert next(pieces)
        refused = httpx.post(f"{serving.url}/v1/completions", json=body)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "too_many_requests"


def test_a_variant_that_is_not_ready_is_unavailable_while_the_other_serves(start: Start) -> None:
    serving = start([simulated("quick"), simulated("late", "--ttft-ms", "60000")])
    eventually(lambda: serving.states() == {"quick": "ready", "late": "starting"}, 20, "one of two is ready")
    assert serving.client.get("/ready").status_code == 503
    assert serving.client.get("/health").status_code == 200
    late = serving.client.post("/v1/completions", json={"model": "late", "prompt": "x"})
    assert (late.status_code, late.json()["error"]["code"]) == (503, "model_not_ready")
    assert int(late.headers["retry-after"]) > 0
    quick = serving.client.post("/v1/completions", json={"model": "quick", "prompt": "x"})
    assert quick.status_code == 200


def test_metrics_are_well_formed_and_labelled(pair: Serving) -> None:
    pair.client.post("/v1/completions", json={"model": "dense", "prompt": "x", "max_tokens": 2})
    pair.client.post("/v1/completions", json={"model": "x" * 500, "prompt": "x"})
    page = pair.client.get("/metrics").text
    families = list(text_string_to_metric_families(page))
    assert len({family.name for family in families}) == len(families)
    types = [line for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    samples = {(s.name, s.labels.get("variant")): s.value for family in families for s in family.samples}
    assert samples["prunebench_requests_total", "_unknown"] >= 1
    assert samples["vllm:generation_tokens_total", "dense"] >= 3
    assert samples["vllm:generation_tokens_total", "pruned"] >= 1
    assert "x" * 500 not in page


def test_documentation_is_served(pair: Serving) -> None:
    assert pair.client.get("/docs").status_code == 200
    assert {"/health", "/ready", "/metrics", "/v1/models"} <= set(pair.client.get("/openapi.json").json()["paths"])


def test_a_running_server_can_be_a_variant(start: Start, pair: Serving) -> None:
    front = start([{"name": "dense", "url": f"{pair.url}/v1"}], port=free_port()).until_ready()
    body = {"model": "dense", "prompt": "a b", "max_tokens": 4, "temperature": 0}
    assert (
        front.client.post("/v1/completions", json=body).content
        == pair.client.post("/v1/completions", json=body).content
    )
