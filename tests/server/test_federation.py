"""Does Prometheus get everybody's numbers, whole and told apart, from one place? The real one is asked where it is."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from metric_pages import own_page, samples, total
from remote_engine import engines
from serving_process import Serving, Start, eventually, simulated
from test_control_plane import ask, registry_in

from artifacts.errors import ServingError
from server import federation
from server.exposition import PIECE_LINES
from server.federation import GATEWAY, page_of, scrape_targets
from server.metrics import GatewayMetrics, ObservedRequest
from tests.ports import free_port

ABSENT = "Prometheus is not installed here (Debian: prometheus)"
VLLM = {"vllm:generation_tokens_total", "vllm:num_requests_running", "vllm:prompt_tokens_total"}


def test_a_variants_page_is_its_workers_own(pair: Serving) -> None:
    arguments = Path(f"/proc/{pair.workers()['dense']}/cmdline").read_text().split("\0")
    [listening] = [argument for argument in arguments if argument.endswith(".sock")]
    with httpx.Client(transport=httpx.HTTPTransport(uds=listening)) as direct:
        truth = direct.get("http://worker/metrics").content
    assert pair.client.get("/metrics", params={"variant": "dense"}).content == truth


def test_the_whole_page_is_the_parts_with_their_labels(pair: Serving) -> None:
    whole = samples(pair.client.get("/metrics").text)
    for name in ("dense", "pruned"):
        part = samples(pair.client.get("/metrics", params={"variant": name}).text)
        labelled = {(key, tuple(sorted((*labels, ("variant", name))))) for key, labels in part}
        assert {key for key, _ in labelled} >= VLLM
        assert labelled <= set(whole)
    own = samples(pair.client.get("/metrics", params={"variant": GATEWAY}).text)
    assert set(own) <= set(whole)
    assert not {key for key, _ in own} & VLLM


UNKNOWN = [("nobody", 404, "model_not_found"), ("", 404, "model_not_found"), ("small", 503, "no_metrics")]


@pytest.mark.parametrize(("name", "status", "code"), UNKNOWN)
def test_a_page_that_is_not_there_is_refused(name: str, status: int, code: str) -> None:
    registry = registry_in("ready", "backoff", "ready")
    with pytest.raises(ServingError) as refused:
        asyncio.run(page_of(registry, GatewayMetrics(registry), name))
    assert (refused.value.status, refused.value.code) == (status, code)


def test_targets_have_the_format_of_http_sd() -> None:
    assert scrape_targets(registry_in("ready"), "here:8000") == [
        {"targets": ["here:8000"], "labels": {"__metrics_path__": "/metrics", "__param_variant": GATEWAY}},
        *(
            {
                "targets": ["here:8000"],
                "labels": {"__metrics_path__": "/metrics", "__param_variant": name, "variant": name},
            }
            for name in ("dense", "small", "far")
        ),
    ]


def test_targets_are_where_the_caller_found_us(pair: Serving) -> None:
    answer = pair.client.get("/sd", headers={"host": "gateway.example:81"})
    assert answer.headers["content-type"] == "application/json"
    assert {target for group in answer.json() for target in group["targets"]} == {"gateway.example:81"}
    assert ask(registry_in("ready"), "/sd", "POST")[0] == 405


def test_several_servers_of_one_variant_are_told_apart(start: Start) -> None:
    with engines("m", "m") as (near, far):
        serving = start([{"name": "m", "url": [near.url, far.url]}]).until_ready()
        running = "vllm:num_requests_running"

        def replicas(**asked: str) -> set[str | None]:
            found = samples(serving.client.get("/metrics", params=asked).text)
            return {dict(labels).get("replica") for name, labels in found if name == running}

        eventually(lambda: replicas() == {near.url, far.url}, 10, "both are well")
        assert replicas(variant="m") == {near.url, far.url}


def observed(*requests: ObservedRequest) -> str:
    registry = registry_in("ready")
    metrics = GatewayMetrics(registry)
    for request in requests:
        metrics.observe(request)
    return own_page(metrics)


def request(**noted: Any) -> ObservedRequest:
    return ObservedRequest("/v1/completions", "dense", **noted)


def test_waits_are_those_of_who_waited() -> None:
    page = observed(request(queued_s=0.0), request(queued_s=0.25), request(queued_s=1.5))
    assert total(page, "prunebench_queue_wait_seconds_count", variant="dense") == 2
    assert total(page, "prunebench_queue_wait_seconds_sum", variant="dense") == 1.75
    assert total(page, "prunebench_request_duration_seconds_count", variant="dense") == 3


def test_refusals_are_counted_by_reason() -> None:
    page = observed(request(refusal="queue_full"), request(refusal="queue_full"), request(refusal="x"), request())
    assert total(page, "prunebench_refusals_total", variant="dense", reason="queue_full") == 2
    assert total(page, "prunebench_refusals_total") == 3


def test_bytes_are_added_up_and_streams_kept_apart() -> None:
    now_s = time.perf_counter()
    page = observed(
        request(bytes_out=10, streamed=True, first_byte_s=now_s),
        request(bytes_out=5, first_byte_s=now_s),
        request(bytes_out=1, streamed=True, first_byte_s=now_s),
    )
    assert total(page, "prunebench_response_body_bytes_total", variant="dense") == 16
    counted = "prunebench_time_to_first_byte_seconds_count"
    assert [total(page, counted, variant="dense", stream=said) for said in ("true", "false")] == [2, 1]


def test_the_gateways_own_process_and_build_are_there() -> None:
    page = observed()
    assert total(page, "process_resident_memory_bytes") > 1 << 20
    assert total(page, "process_cpu_seconds_total") > 0
    assert total(page, "prunebench_build_info") == 1


def test_the_queue_is_seen_while_it_is_there_and_the_wait_afterwards(start: Start) -> None:
    serving = start([simulated("slow", "--itl-ms", "1000")], limits={"max_in_flight_per_variant": 1}).until_ready()
    body = b'{"model": "slow", "prompt": "x", "max_tokens": 60, "stream": true}'
    sent = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def told(name: str) -> float:
        return total(serving.client.get("/metrics").text, f"prunebench_{name}", variant="slow")

    with socket.create_connection(("127.0.0.1", serving.port)) as first:
        first.sendall(sent)
        eventually(lambda: told("requests_in_flight") == 1, 5, "the first is inside")
        second = socket.create_connection(("127.0.0.1", serving.port), timeout=10)
        second.sendall(sent)
        eventually(lambda: told("requests_queued") == 1, 5, "the second waits")
    assert second.recv(12) == b"HTTP/1.1 200"
    assert (told("requests_queued"), told("requests_in_flight")) == (0, 1)
    second.close()
    eventually(lambda: told("queue_wait_seconds_count") == 1, 5, "one of two had to wait")
    assert told("queue_wait_seconds_sum") > 0


def test_own_metrics_come_in_small_pieces_that_make_the_same_page() -> None:
    registry = registry_in("ready")
    metrics = GatewayMetrics(registry)
    for variant in ("dense", "small", "far"):
        for route in ("/v1/completions", "/v1/chat/completions", "other"):
            metrics.observe(ObservedRequest(route, variant, 200, first_byte_s=time.perf_counter()))
    pieces = [page.text for page in metrics.pages()]
    assert max(sum(not line.startswith("#") for line in piece.splitlines()) for piece in pieces) <= PIECE_LINES
    assert len(pieces) > 9
    found = samples(own_page(metrics))
    assert len(found) == sum(len(samples(piece)) for piece in pieces) > 600


def test_a_scrape_has_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation, "SCRAPE_TIMEOUT_S", 0.05)

    async def never(pool: object, method: str, path: str) -> tuple[int, bytes]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(federation, "fetch", never)
    registry = registry_in("ready", "ready", "ready")
    page = asyncio.run(federation.whole_page(registry, GatewayMetrics(registry)))
    assert total(page, "prunebench_variant_state", state="ready") == 3


@pytest.mark.skipif(shutil.which("promtool") is None, reason=ABSENT)
def test_promtool_accepts_the_pages(pair: Serving) -> None:
    pair.client.post("/v1/completions", json={"model": "dense", "prompt": "x", "max_tokens": 2})
    for params, allowed in (({"variant": GATEWAY}, {0}), ({}, {0, 3})):  # 3: vLLM's colons are not to its taste
        page = pair.client.get("/metrics", params=params).content
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60)
        assert checked.returncode in allowed, checked.stderr.decode()


@contextmanager
def prometheus(folder: Path, gateway: str) -> Iterator[httpx.Client]:
    """Prometheus that knows nothing but where the gateway's targets are listed."""
    config, port = folder / "prometheus.yml", free_port()
    discovery = f"    http_sd_configs: [{{url: '{gateway}/sd', refresh_interval: 1s}}]\n"
    config.write_text(f"scrape_configs:\n  - job_name: prunebench\n    scrape_interval: 1s\n{discovery}")
    flags = [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(["prometheus", f"--config.file={config}", *flags])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason=ABSENT)
def test_the_real_prometheus_finds_and_scrapes_everybody(pair: Serving, tmp_path: Path) -> None:
    pair.client.post("/v1/completions", json={"model": "dense", "prompt": "x", "max_tokens": 2})
    with prometheus(tmp_path, pair.url) as client:

        def result(query: str) -> dict[str | None, float]:
            """By variant."""
            try:
                found = client.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
            except (httpx.TransportError, ValueError):
                return {}
            assert not [series for series in found if "exported_variant" in series["metric"]]
            return {series["metric"].get("variant"): float(series["value"][1]) for series in found}

        eventually(lambda: result("up") == {None: 1, "dense": 1, "pruned": 1}, 30, "all three targets are up")
        tokens = result("vllm:generation_tokens_total")
        assert set(tokens) == {"dense", "pruned"}
        whole = pair.client.get("/metrics").text
        assert tokens["dense"] == total(whole, "vllm:generation_tokens_total", variant="dense")
        assert result('prunebench_requests_total{code="200"}')["dense"] >= 1
