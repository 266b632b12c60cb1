"""Is the fleet file followed without a failed request of anybody whom it does not concern? Real processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving_process import Serving, eventually, launcher, loaded, simulated

ASK = {"prompt": "x", "max_tokens": 3}


def reload(serving: Serving) -> httpx.Response:
    return serving.client.post("/fleet/reload")


BASE = [simulated("a"), simulated("b")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    for start in launcher(tmp_path_factory.mktemp("reload")):
        yield start(BASE).until_ready()


@pytest.fixture
def serving(running: Serving) -> Serving:
    """A server back at the base, whatever the test before made of it."""
    running.refleet(BASE)
    assert reload(running).status_code == 202
    eventually(lambda: set(running.states()) == {"a", "b"}, 20, "the base is back")
    if running.states()["a"] == "stopped":
        running.order("a", "start")
    return running.until_ready()


def inside(serving: Serving, name: str) -> int:
    return int(serving.client.get(f"/variants/{name}").json()["in_flight"])


def test_variants_come_go_and_change_while_the_others_serve_on(serving: Serving) -> None:
    slow = [simulated(name, "--itl-ms", "10") for name in ("goes", "changes")]
    serving.refleet([simulated("stays"), *slow])
    reload(serving)
    eventually(lambda: set(serving.states()) == {"stays", "goes", "changes"}, 20, "all others are gone")
    serving.until_ready()
    stays, changes = serving.workers()["stays"], serving.workers()["changes"]
    last: list[int] = []

    def long_request(name: str) -> None:
        body = {"model": name, "prompt": "x", "max_tokens": 60}
        last.append(httpx.post(f"{serving.url}/v1/completions", json=body).status_code)

    callers = [threading.Thread(target=long_request, args=(name,)) for name in ("goes", "changes")]
    with loaded(serving, {"model": "stays", **ASK}, clients=4, pause_s=0) as untouched:
        for caller in callers:
            caller.start()
        eventually(lambda: inside(serving, "goes") == inside(serving, "changes") == 1, 10, "both are inside")
        serving.refleet([simulated("stays"), simulated("changes", "--itl-ms", "2"), simulated("comes")])
        answer = reload(serving)
        states = serving.states()
        assert (answer.status_code, answer.json()) == (
            202,
            {"added": ["comes"], "changed": ["changes"], "removed": ["goes"], "unaffected": ["stays"]},
        )
        assert (states["goes"], states["changes"]) == ("draining", "dozing")
        waited = httpx.post(f"{serving.url}/v1/completions", json={"model": "changes", **ASK}, timeout=30)
        eventually(lambda: set(serving.states()) == {"stays", "changes", "comes"}, 20, "the removed one is gone")
        serving.until_ready()
        for caller in callers:
            caller.join(20)
    assert set(untouched) == {200} and len(untouched) > 20
    assert last == [200, 200]
    assert waited.status_code == 200
    assert serving.workers()["stays"] == stays
    assert serving.workers()["changes"] != changes
    assert serving.client.post("/v1/completions", json={"model": "comes", **ASK}).status_code == 200
    assert serving.client.post("/v1/completions", json={"model": "goes", **ASK}).status_code == 404


def test_names_and_limits_count_at_once_and_no_worker_restarts(serving: Serving) -> None:
    workers = serving.workers()
    serving.refleet([simulated("a"), simulated("b")], aliases={"best": "b"}, limits={"max_body_bytes": 200})
    assert reload(serving).json()["unaffected"] == ["a", "b"]
    named = serving.client.post("/v1/completions", json={"model": "best", **ASK})
    assert (named.status_code, named.headers["x-prunebench-variant"]) == (200, "b")
    assert serving.client.post("/v1/completions", json={"model": "a", "prompt": "x" * 200}).status_code == 413
    assert serving.workers() == workers


def test_the_hangup_signal_reloads_too(serving: Serving) -> None:
    serving.refleet([*BASE, simulated("c")])
    serving.process.send_signal(signal.SIGHUP)
    eventually(lambda: serving.states() == {"a": "ready", "b": "ready", "c": "ready"}, 20, "the new one is ready")


BAD: list[tuple[str, str]] = [
    ("{", "Expecting property name"),
    ('{"variants": []}', "variants"),
    ('{"variants": [{"name": "a", "engine": "sim"}], "unknown": 1}', "unknown"),
    (
        '{"variants": [{"name": "b", "model": "/no/such/folder"}], "state_dir": "DIR"}',
        "/no/such/folder is not a folder",
    ),
    ('{"variants": [{"name": "a", "engine": "sim"}], "layout": "swap"}', "layout"),
]


def test_a_file_that_cannot_be_taken_changes_nothing(serving: Serving) -> None:
    workers = serving.workers()
    for text, complaint in BAD:
        serving.fleet_path.write_text(text.replace("DIR", str(serving.log_dir)))
        answer = reload(serving)
        error: dict[str, Any] = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "fleet_not_reloaded"), text
        assert complaint in error["message"]
        assert "nothing has changed" in error["message"]
    serving.fleet_path.unlink()
    assert reload(serving).status_code == 409
    serving.process.send_signal(signal.SIGHUP)
    assert serving.client.post("/v1/completions", json={"model": "a", **ASK}).status_code == 200
    assert serving.workers() == workers


def test_a_changed_variant_that_cannot_start_says_why_and_hurts_nobody(serving: Serving) -> None:
    with loaded(serving, {"model": "b", **ASK}, clients=2, pause_s=0) as statuses:
        serving.refleet([simulated("a", "--no-such-flag"), simulated("b")])
        assert reload(serving).status_code == 202
        eventually(lambda: serving.states()["a"] == "backoff", 20, "it cannot start")
        assert "--no-such-flag" in serving.client.get("/variants/a").json()["reason"]
        serving.refleet([simulated("a"), simulated("b")])
        assert reload(serving).json()["changed"] == ["a"]
        eventually(lambda: serving.states()["a"] == "ready", 20, "mended")
    assert set(statuses) == {200}


@pytest.mark.parametrize("order", ["stop", "sleep"])
def test_a_variant_that_was_stopped_or_sent_to_sleep_stays_so_when_it_changes(serving: Serving, order: str) -> None:
    rest = {"stop": "stopped", "sleep": "asleep"}[order]
    serving.order("a", order)
    eventually(lambda: serving.states()["a"] == rest, 10, "it rests")
    serving.refleet([simulated("a", "--itl-ms", "2"), simulated("b")])
    assert reload(serving).json()["changed"] == ["a"]
    assert serving.states()["a"] == rest
    serving.order("a", {"stop": "start", "sleep": "wake"}[order])
    eventually(lambda: serving.states()["a"] == "ready", 10, "it is back, changed")
