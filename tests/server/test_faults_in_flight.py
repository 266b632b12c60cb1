"""What do clients see when a worker dies, the server is stopped, or is killed? Nothing silent, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest
from serving_process import Serving, Start, eventually, family_of, loaded, processes_with, simulated

from tests.ports import free_port

CLIENTS = 16
STREAM = {"prompt": "x", "max_tokens": 2000, "stream": True}


def test_killed_worker_ends_the_stream_with_an_error_event_and_a_cut_connection(start: Start) -> None:
    serving = start([simulated("dense"), simulated("other")]).until_ready()
    received = b""
    request = httpx.Request("POST", f"{serving.url}/v1/completions", json={"model": "dense", **STREAM})
    answer = serving.client.send(request, stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        for chunk in answer.iter_raw():
            if not received:
                os.kill(serving.workers()["dense"], signal.SIGKILL)
            received += chunk
    events = [line for line in received.decode().split("\n\n") if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "worker_lost"
    assert all("error" not in json.loads(event.removeprefix("data: ")) for event in events[:-1])
    assert b"[DONE]" not in received


def test_killed_worker_before_the_answer_is_an_error(start: Start) -> None:
    serving = start([simulated("dense", "--itl-ms", "100")]).until_ready()
    answers: list[httpx.Response] = []
    body = {"model": "dense", "prompt": "x", "max_tokens": 2000}
    caller = threading.Thread(target=lambda: answers.append(httpx.post(f"{serving.url}/v1/completions", json=body)))
    caller.start()
    eventually(lambda: 'prunebench_requests_in_flight{variant="dense"} 1.0' in _metrics(serving), 5, "it runs")
    os.kill(serving.workers()["dense"], signal.SIGKILL)
    caller.join(10)
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (502, "worker_lost")


def _metrics(serving: Serving) -> str:
    return serving.client.get("/metrics").text


def test_killed_worker_comes_back_and_the_other_variant_loses_nothing(start: Start) -> None:
    serving = start([simulated("dense"), simulated("other")]).until_ready()
    first = serving.workers()["dense"]
    with loaded(serving, {"model": "other", "prompt": "x", "max_tokens": 20}, clients=4, pause_s=0) as statuses:
        os.kill(first, signal.SIGKILL)
        eventually(lambda: serving.states()["dense"] == "backoff", 5, "the crash is noticed")
        eventually(lambda: serving.states()["dense"] == "ready", 20, "the worker is back")
    assert set(statuses) == {200}
    assert len(statuses) > 50
    assert serving.workers()["dense"] != first
    assert serving.stop()["variants"]["dense"]["restarts"] == 1


def test_a_worker_that_dies_again_and_again_waits_longer_and_says_why(start: Start) -> None:
    serving = start([simulated("frail", "--fail-after-tokens", "1")]).until_ready()
    reasons = []
    for _ in range(2):
        eventually(lambda: serving.states()["frail"] == "ready", 20, "it is up")
        body = {"model": "frail", "prompt": "x", "max_tokens": 5}
        serving.client.post("/v1/completions", json=body)
        eventually(lambda: serving.states()["frail"] == "backoff", 5, "it is down")
        reasons.append(serving.client.get("/ready").json()["variants"]["frail"]["reason"])
    assert reasons == ["SimulatedError: the token limit of --fail-after-tokens is reached"] * 2
    refused = serving.client.post("/v1/completions", json={"model": "frail", "prompt": "x"})
    assert refused.status_code == 503
    assert "SimulatedError" in refused.json()["error"]["message"]
    model = serving.client.get("/v1/models/frail").json()["prunebench"]
    assert (model["state"], model["restarts"]) == ("backoff", 1)


def test_a_variant_that_cannot_start_ends_the_server_with_its_reason_and_no_process(start: Start) -> None:
    serving = start([simulated("good"), simulated("bad", "--no-such-flag")])
    _, errors = serving.process.communicate(timeout=20)
    assert serving.process.returncode == 1
    assert "error: The model 'bad' could not be started: unrecognized arguments: --no-such-flag" in errors
    assert processes_with("--served-model-name\0good\0") == []


def test_a_taken_port_is_refused_before_any_engine_starts(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving = start([simulated("dense")], port=taken.getsockname()[1])
        _, errors = serving.process.communicate(timeout=20)
    assert "Address already in use" in errors
    assert "Choose another --port" in errors
    assert "starting" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_finished_before_the_server_ends(start: Start, number: int) -> None:
    serving = start([simulated("steady-1", "--itl-ms", "10")]).until_ready()
    body = {"model": "steady-1", "prompt": "x", "max_tokens": 100, "stream": True}
    with httpx.Client() as client, client.stream("POST", f"{serving.url}/v1/completions", json=body) as answer:
        pieces = answer.iter_raw()
        received = next(pieces)
        serving.process.send_signal(number)
        received += b"".join(pieces)
    assert received.endswith(b"data: [DONE]\n\n")
    assert received.count(b"data: ") == 101
    serving.process.wait(timeout=20)
    summary = json.loads(serving.process.communicate()[0])
    assert summary["variants"]["steady-1"] == {"requests": 1, "failures": 0, "restarts": 0}
    assert processes_with("steady-1") == []


def test_whoever_is_answered_under_load_is_answered_whole_before_the_server_ends(start: Start) -> None:
    """Others find no server, are told that it ends, or lose an idle connection; nobody gets a part of an answer."""
    serving = start([simulated("loaded-1", "--itl-ms", "5")]).until_ready()
    body = {"model": "loaded-1", "prompt": "x", "max_tokens": 40, "stream": True}
    whole, refused = [], []

    def ask_until_refused() -> None:
        with httpx.Client(timeout=30) as client:
            while True:
                try:
                    answer = client.post(f"{serving.url}/v1/completions", json=body)
                except (httpx.ConnectError, httpx.ReadError, httpx.WriteError) as error:
                    return refused.append(type(error).__name__)
                except httpx.RemoteProtocolError as error:
                    return refused.append(str(error))
                if answer.status_code != 200:
                    return refused.append(answer.json()["error"]["code"])
                whole.append(answer.content.endswith(b"data: [DONE]\n\n") and answer.content.count(b"data: "))

    callers = [threading.Thread(target=ask_until_refused) for _ in range(CLIENTS)]
    for caller in callers:
        caller.start()
    eventually(lambda: len(whole) > 2 * CLIENTS, 20, "all are busy")
    begun = len(whole)
    summary = serving.stop()
    for caller in callers:
        caller.join(30)
    assert set(whole) == {41}
    assert len(whole) > begun
    assert "peer closed connection without sending complete message body" not in " ".join(refused)
    assert summary["variants"]["loaded-1"]["failures"] == refused.count("shutting_down")
    assert processes_with("loaded-1") == []


def test_a_second_signal_does_not_wait(start: Start) -> None:
    serving = start([simulated("endless-1", "--itl-ms", "1000")]).until_ready()
    body = {"model": "endless-1", "prompt": "x", "max_tokens": 1000, "stream": True}
    with (
        httpx.Client(timeout=30) as client,
        client.stream("POST", f"{serving.url}/v1/completions", json=body) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces)
        serving.process.send_signal(signal.SIGINT)
        eventually(lambda: not _accepts(serving.port), 5, "no new connections are taken")
        serving.process.send_signal(signal.SIGINT)
        summary = json.loads(serving.process.communicate(timeout=10)[0])
    assert summary["variants"]["endless-1"]["failures"] == 1
    assert processes_with("endless-1") == []


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_signal_during_the_start_leaves_nothing(start: Start) -> None:
    serving = start([simulated("never-1", "--ttft-ms", "60000")])
    eventually(lambda: serving.workers().get("never-1"), 20, "the worker is starting")
    serving.process.send_signal(signal.SIGINT)
    serving.process.communicate(timeout=10)
    assert serving.process.returncode == 0
    assert processes_with("never-1") == []


def test_a_killed_server_leaves_no_worker_behind(start: Start) -> None:
    """Its clients lose their connections."""
    serving = start([simulated("orphan-1", "--itl-ms", "50"), simulated("orphan-2")]).until_ready()
    assert len(serving.workers()) == 2
    body = {"model": "orphan-1", **STREAM}
    with serving.client.stream("POST", "/v1/completions", json=body) as answer:
        pieces = answer.iter_raw()
        assert next(pieces)
        serving.process.kill()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(pieces)
    serving.process.communicate(timeout=5)
    eventually(lambda: not processes_with("orphan-1") and not processes_with("orphan-2"), 5, "all workers are gone")


def test_no_process_of_the_servers_holds_what_the_server_writes_to(start: Start) -> None:
    """A killed server's output ends with it, even if an engine is deaf; what goes wrong in a warden is in the log."""
    serving = start([simulated("deaf-1")]).until_ready()
    written_to = {Path(f"/proc/{serving.process.pid}/fd/{number}").readlink() for number in (1, 2)}
    below = family_of(serving.process.pid)[1:]
    assert len(below) == 2
    for pid in below:
        assert not written_to & {path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()}
    warden, engine = below
    assert Path(f"/proc/{warden}/fd/2").readlink() == serving.log_dir / "deaf-1.log"
    os.kill(engine, signal.SIGSTOP)
    serving.process.kill()
    serving.process.communicate(timeout=5)
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: not processes_with("deaf-1"), 5, "the warden is gone too")


def test_worker_logs_are_kept_in_the_state_folder(start: Start) -> None:
    serving = start([simulated("frail", "--fail-after-tokens", "1")], port=free_port()).until_ready()
    serving.client.post("/v1/completions", json={"model": "frail", "prompt": "x"})
    log = Path(serving.log_dir) / "frail.log"
    eventually(lambda: "SimulatedError" in log.read_text(), 5, "the worker's last words are in its log")
