"""Does the same hold for real vLLM: clients that leave, workers that die, servers that are killed?"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from serving_process import Serving, Start, children_of, eventually, is_engine_core, processes_with

pytestmark = pytest.mark.engine

BODY = {"prompt": [5, 6, 7], "max_tokens": 500, "ignore_eos": True}
LONG = {**BODY, "n": 16}
LONG_TOKENS = 16 * 500


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_engine(engines: Serving, stream: bool) -> None:
    body = json.dumps({"model": "dense", **LONG, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    before = engines.worker_metric("vllm:generation_tokens_total", "dense")
    with socket.create_connection(("127.0.0.1", engines.port), timeout=30) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        eventually(lambda: engines.worker_metric("vllm:num_requests_running", "dense") > 0, 30, "the request runs")
    eventually(lambda: engines.worker_metric("vllm:num_requests_running", "dense") == 0, 2, "the engine is idle")
    assert engines.worker_metric("vllm:generation_tokens_total", "dense") - before < LONG_TOKENS


def test_answers_carry_the_checkpoints_fingerprint(engines: Serving) -> None:
    answer = engines.client.post("/v1/completions", json={"model": "dense", **BODY, "max_tokens": 1})
    fingerprint = answer.headers["x-prunebench-fingerprint"]
    assert answer.json()["system_fingerprint"] == fingerprint
    assert engines.client.get("/v1/models/dense").json()["prunebench"]["fingerprint"] == fingerprint


@pytest.mark.parametrize("stream", [False, True])
def test_a_requests_name_is_the_engines_and_its_tokens_are_in_the_log(engines: Serving, stream: bool) -> None:
    name = f"mine-{stream}"
    body = {"model": "dense", **BODY, "max_tokens": 9, "stream": stream}
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    answer = engines.client.post("/v1/completions", json=body, headers={"x-request-id": name})
    first = json.loads(answer.text.partition("data: ")[2].partition("\n")[0]) if stream else answer.json()
    assert first["id"].startswith(f"cmpl-{name}")
    assert answer.headers.get_list("x-request-id") == [name]
    log = engines.log_dir.parent / "requests.log"
    eventually(lambda: f'"request_id":"{name}"' in log.read_text(), 5, "it is in the log")
    [line] = [line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == name]
    assert (line["prompt_tokens"], line["completion_tokens"], line["streamed"]) == (3, 9, stream)
    assert line["bytes_out"] == len(answer.content)


def test_engine_metrics_can_show_a_millisecond(engines: Serving) -> None:
    page = engines.client.get("/metrics").text
    assert 'vllm:inter_token_latency_seconds_bucket{variant="dense",engine="0",le="0.0005"' in page


def test_a_server_killed_during_the_start_leaves_no_engine(start: Start, engine_models: dict[str, Path]) -> None:
    model = str(engine_models["dense"].resolve())
    serving = start([{"name": "orphan-engine", "model": model}], dtype="float32", max_model_len=512)
    engine = eventually(lambda: serving.workers().get("orphan-engine"), 30, "the engine process runs")
    core = eventually(lambda: [pid for pid in children_of(engine) if is_engine_core(pid)], 200, "its core runs")
    serving.process.kill()
    serving.process.communicate(timeout=5)
    eventually(lambda: not processes_with("orphan-engine"), 20, "the API server is gone")
    eventually(lambda: not Path(f"/proc/{core[0]}").exists(), 20, "its core is gone")
