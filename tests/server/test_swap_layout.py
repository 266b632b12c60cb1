"""Do variants take turns without losing a request? Real processes that stop to sleep and start to wake."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from serving_process import Serving, eventually, launcher, loaded, simulated

SWAP = {"awake": 1, "min_awake_s": 0.2}
ASK = {"prompt": "x", "max_tokens": 3}


def ask(serving: Serving, model: str) -> httpx.Response:
    return httpx.post(f"{serving.url}/v1/completions", json={"model": model, **ASK}, timeout=60)


def ready(serving: Serving) -> bool:
    return bool(serving.states()) and serving.client.get("/ready").status_code == 200


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    fleet = [simulated("a"), simulated("b"), simulated("c"), simulated("broken", "--no-such-flag")]
    for start in launcher(tmp_path_factory.mktemp("swap")):
        yield until_awake(start(fleet, layout="swap", swap=SWAP))


def until_awake(serving: Serving) -> Serving:
    eventually(lambda: ready(serving), 20, "the first is awake")
    return serving


def test_each_is_awake_in_turn_and_nobody_is_refused(serving: Serving) -> None:
    assert serving.states() == {"a": "ready", "b": "asleep", "c": "asleep", "broken": "asleep"}
    assert set(serving.workers()) == {"a"}
    for name in ("c", "b", "b", "a"):
        assert ask(serving, name).status_code == 200
        assert [known for known, state in serving.states().items() if state == "ready"] == [name]
        assert set(serving.workers()) == {name}


def test_all_are_served_when_all_are_asked_at_once_and_never_more_than_one_process_lives(serving: Serving) -> None:
    answers: list[int] = []
    callers = [
        threading.Thread(target=lambda name=name: answers.append(ask(serving, name).status_code))  # type: ignore[misc]
        for name in "abc" * 3
    ]
    for caller in callers:
        caller.start()
    most = 0
    while any(caller.is_alive() for caller in callers):
        most = max(most, len(serving.workers()))
    assert answers == [200] * 9
    assert most == 1


def test_a_variant_under_load_keeps_its_time_and_then_lets_the_other_in(serving: Serving) -> None:
    with loaded(serving, {"model": "a", **ASK}, clients=3, pause_s=0) as statuses:
        for _ in range(2):
            assert ask(serving, "b").status_code == 200
    assert set(statuses) == {200}


def test_one_alone_is_never_sent_to_sleep(serving: Serving) -> None:
    assert ask(serving, "a").status_code == 200
    first = serving.workers()["a"]
    with loaded(serving, {"model": "a", **ASK}, clients=2, pause_s=0.01) as statuses:
        eventually(lambda: len(statuses) > 100, 30, "a hundred requests")
    assert serving.workers() == {"a": first}


def test_a_second_one_wakes_on_request_only_where_there_is_room(serving: Serving) -> None:
    assert ask(serving, "a").status_code == 200
    assert serving.order("b", "wake") == (409, "too_many_awake")
    serving.order("a", "sleep")
    eventually(lambda: serving.states()["a"] == "asleep", 10, "room")
    assert serving.order("b", "wake") == (202, "waking")
    serving.order("a", "stop")
    assert ask(serving, "a").status_code == 503
    assert serving.order("a", "start") == (202, "asleep")
    assert ask(serving, "a").status_code == 200


def test_a_variant_that_cannot_wake_refuses_with_its_reason_and_the_others_take_their_turns(serving: Serving) -> None:
    refused = ask(serving, "broken")
    assert refused.status_code == 503
    assert "--no-such-flag" in refused.json()["error"]["message"]
    assert ask(serving, "a").status_code == 200
    eventually(lambda: serving.states()["broken"] == "asleep", 10, "it may be asked for again")
    assert ask(serving, "broken").status_code == 503
