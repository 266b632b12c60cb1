"""Does a variant do what it is told, and does everybody else go on? Real processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from serving_process import Serving, Start, eventually, launcher, loaded, simulated

ASK = {"prompt": "x", "max_tokens": 2}


def ask(serving: Serving, model: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{serving.url}/v1/completions", json={"model": model, **ASK, **fields}, timeout=60)


@contextmanager
def streaming(serving: Serving, model: str, tokens: int) -> Iterator[list[bytes]]:
    """A stream that has begun; at the end of the block it has been read to its end, and the list is what came."""
    got: list[bytes] = []
    body = {"model": model, "prompt": "x", "max_tokens": tokens, "stream": True}

    def read() -> None:
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{serving.url}/v1/completions", json=body) as answer,
        ):
            try:
                for piece in answer.iter_raw():
                    got.append(piece)
            except httpx.RemoteProtocolError:
                got.append(b"cut")

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: got, 10, "the stream has begun")
    yield got
    reader.join(60)


@contextmanager
def asking(serving: Serving, model: str) -> Iterator[list[httpx.Response]]:
    """A request that runs while the block does; at its end the list has the answer."""
    got: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: got.append(ask(serving, model)))
    caller.start()
    yield got
    caller.join(60)


def status(serving: Serving, name: str) -> dict[str, Any]:
    return dict(serving.client.get(f"/variants/{name}").json())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    fleet = [simulated("a", "--itl-ms", "10"), simulated("b")]
    for start in launcher(tmp_path_factory.mktemp("orders")):
        yield start(fleet).until_ready()


@pytest.fixture
def serving(running: Serving) -> Serving:
    """Two variants that are ready; what the test before did to them is undone."""
    for name, order in {"asleep": "wake", "stopped": "start"}.items():
        for variant in [known for known, state in running.states().items() if state == name]:
            running.order(variant, order)
    return running.until_ready()


def test_stop_and_start(serving: Serving) -> None:
    first = serving.workers()["a"]
    with loaded(serving, {"model": "b", **ASK}, clients=2, pause_s=0) as statuses:
        assert serving.order("a", "stop") == (202, "stopped")
        assert serving.order("a", "stop") == (200, "stopped")
        refused = ask(serving, "a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_ready")
        assert int(refused.headers["retry-after"]) > 0
        eventually(lambda: "a" not in serving.workers(), 10, "its worker is gone")
        assert serving.client.get("/ready").status_code == 200
        assert serving.order("a", "start")[0] == 202
        eventually(lambda: serving.states()["a"] == "ready", 10, "it is back")
    assert set(statuses) == {200}
    assert ask(serving, "a").status_code == 200
    assert serving.workers()["a"] != first
    assert status(serving, "a")["restarts"] == 0  # nothing has crashed


def test_drain_finishes_what_is_inside_and_refuses_the_rest(serving: Serving) -> None:
    with streaming(serving, "a", 60) as got:
        assert serving.order("a", "drain") == (202, "draining")
        assert serving.order("a", "drain") == (200, "draining")
        assert status(serving, "a")["in_flight"] == 1
        assert ask(serving, "a").status_code == 503
        assert serving.order("a", "start") == (409, "impossible_in_this_state")
    assert b"".join(got).endswith(b"data: [DONE]\n\n")
    eventually(lambda: serving.states()["a"] == "stopped" and "a" not in serving.workers(), 10, "it has stopped")
    assert status(serving, "a")["reason"] == "on request"
    assert ask(serving, "b").status_code == 200


def test_a_drain_ends_at_its_deadline_with_an_error_event_and_so_does_the_servers(start: Start) -> None:
    slow = [{**simulated(name, "--itl-ms", "1000"), "max_in_flight": 1} for name in ("a", "b")]
    serving = start(slow, timeouts={"drain_s": 0.3}).until_ready()
    began_s = time.monotonic()
    with streaming(serving, "a", 1000) as by_order, asking(serving, "a") as behind:
        eventually(lambda: status(serving, "a")["waiting"] == 1, 10, "the second waits for its turn")
        serving.order("a", "drain")
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in behind] == [(503, "model_not_ready")]
    assert 0.3 <= time.monotonic() - began_s < 10
    with streaming(serving, "b", 1000) as by_signal:
        summary = serving.stop(within_s=15)
    for got in (by_order, by_signal):
        assert b"worker_lost" in b"".join(got)
        assert got[-1] == b"cut"
    assert [variant["failures"] for variant in summary["variants"].values()] == [2, 1]


def test_whoever_asks_a_sleeping_variant_waits_while_it_wakes(serving: Serving) -> None:
    with loaded(serving, {"model": "b", **ASK}, clients=2, pause_s=0) as statuses:
        assert serving.order("a", "sleep")[0] == 202
        eventually(lambda: serving.states()["a"] == "asleep", 10, "it sleeps")
        assert "a" not in serving.workers()
        assert serving.client.get("/ready").status_code == 200
        assert ask(serving, "a").status_code == 200
        assert serving.states()["a"] == "ready"
        assert serving.order("a", "wake") == (200, "ready")
    assert set(statuses) == {200}


def test_wake_on_request(serving: Serving) -> None:
    serving.order("a", "sleep")
    eventually(lambda: serving.states()["a"] == "asleep", 10, "it sleeps")
    assert serving.order("a", "sleep") == (200, "asleep")
    assert serving.order("a", "wake") == (202, "waking")
    eventually(lambda: serving.states()["a"] == "ready", 10, "it is awake")


def test_a_queue_before_a_sleeping_variant_is_refused_when_it_is_stopped(serving: Serving) -> None:
    answers: list[httpx.Response] = []
    with streaming(serving, "a", 200):
        assert serving.order("a", "sleep") == (202, "dozing")
        callers = [threading.Thread(target=lambda: answers.append(ask(serving, "a"))) for _ in range(3)]
        for caller in callers:
            caller.start()
        eventually(lambda: status(serving, "a")["waiting"] == 3, 10, "they wait")
        serving.order("a", "stop")
        for caller in callers:
            caller.join(10)
    assert [answer.status_code for answer in answers] == [503] * 3


def test_the_limits_of_a_queue_hold_before_a_sleeping_variant(start: Start) -> None:
    slow = simulated("a", "--itl-ms", "20")
    serving = start([slow], limits={"max_queued": 1}, timeouts={"queue_s": 0.3}).until_ready()
    answers: list[httpx.Response] = []
    with streaming(serving, "a", 100):
        serving.order("a", "sleep")
        caller = threading.Thread(target=lambda: answers.append(ask(serving, "a")))
        caller.start()
        eventually(lambda: status(serving, "a")["waiting"] == 1, 10, "it waits")
        full = ask(serving, "a")
        caller.join(10)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "queue_timeout")


UNKNOWN = [("GET", "/variants/c"), ("POST", "/variants/c/stop"), ("POST", "/variants/alias/stop")]


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
def test_an_unknown_variant_is_refused_naming_the_known(serving: Serving, method: str, path: str) -> None:
    answer = serving.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "variant_not_found")
    assert "a, b" in answer.json()["error"]["message"]


def test_orders_are_given_with_post_and_documented(serving: Serving) -> None:
    wrong = serving.client.get("/variants/a/stop")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    paths = serving.client.get("/openapi.json").json()["paths"]
    for order in ("start", "stop", "drain", "sleep", "wake"):
        assert set(paths[f"/variants/{{name}}/{order}"]["post"]["responses"]) >= {"200", "202", "404", "409"}
    assert set(paths["/fleet/reload"]["post"]["responses"]) >= {"202", "409"}


def test_variants_are_listed_with_their_state(serving: Serving) -> None:
    listed = serving.client.get("/variants").json()
    assert [(v["name"], v["state"], v["waiting"], v["retry_in_s"]) for v in listed] == [
        ("a", "ready", 0, None),
        ("b", "ready", 0, None),
    ]
    assert all(0 <= v["for_s"] < 600 for v in listed)
