"""What happens when a worker lives but says nothing, and how soon is a death seen? Real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from serving_process import Serving, eventually, launcher, loaded, simulated

PATIENCE_S = 0.8


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    fleet = [simulated("hung", "--itl-ms", "50"), simulated("other"), simulated("busy", "--itl-ms", "200")]
    for start in launcher(tmp_path_factory.mktemp("hung")):
        yield start(fleet, timeouts={"health_s": PATIENCE_S}).until_ready()


def test_a_stopped_worker_is_killed_and_restarted_and_its_requests_end_at_once(serving: Serving) -> None:
    hung = serving.workers()["hung"]
    body = {"model": "hung", "prompt": "x", "max_tokens": 2000}
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(httpx.post(f"{serving.url}/v1/completions", json=body)))
    received = b""
    with (
        loaded(serving, {"model": "other", "prompt": "x", "max_tokens": 2}, clients=2, pause_s=0) as statuses,
        httpx.Client(timeout=30) as client,
        client.stream("POST", f"{serving.url}/v1/completions", json={**body, "stream": True}) as stream,
    ):
        pieces = stream.iter_raw()
        received += next(pieces)
        caller.start()
        eventually(lambda: _inside(serving, "hung") == 2, 10, "both are inside")
        os.kill(hung, signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            for piece in pieces:
                received += piece
        except httpx.RemoteProtocolError:
            pass
        caller.join(20)
        waited_s = time.monotonic() - stopped_s
        eventually(lambda: serving.states()["hung"] == "backoff", 5, "it is out of service")
        reason = serving.client.get("/variants/hung").json()["reason"]
        eventually(lambda: serving.states()["hung"] == "ready", 20, "it is back")
    assert reason == "it did not answer for 0.8 s"
    assert PATIENCE_S * 0.5 <= waited_s < PATIENCE_S + 3
    assert json.loads(received.decode().split("data: ")[-1])["error"]["code"] == "worker_lost"
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (502, "worker_lost")
    assert set(statuses) == {200}
    assert serving.workers()["hung"] != hung


def _inside(serving: Serving, name: str) -> int:
    return int(serving.client.get(f"/variants/{name}").json()["in_flight"])


def test_a_busy_worker_is_not_taken_for_a_hung_one(serving: Serving) -> None:
    first = serving.workers()["busy"]
    body = {"model": "busy", "prompt": "x", "max_tokens": 8}
    assert serving.client.post("/v1/completions", json=body).status_code == 200
    assert serving.workers()["busy"] == first


def test_a_death_is_seen_within_a_second(serving: Serving) -> None:
    engine = serving.workers()["busy"]
    os.kill(engine, signal.SIGKILL)
    killed_s = time.monotonic()
    eventually(lambda: serving.client.get("/ready").status_code == 503, 5, "it is seen")
    assert time.monotonic() - killed_s < 1
