"""What do clients see when a real engine is struck while it answers, and does it come back by itself?

One of its processes is killed, another one, or all of them stop. Whoever is inside must be told in OpenAI's words;
nobody at the engine beside it may notice.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_process import ENGINE_HEALTH_S, Serving, eventually, family_of, is_engine_core, loaded

pytestmark = pytest.mark.engine

STRUCK, SPARED = "pruned", "dense"
# vLLM's worker spins for a second after a request: with one a second it takes a core from the engine that starts.
PAUSE_S = 4.0
LONG = {"model": STRUCK, "prompt": [5, 6, 7], "max_tokens": 500, "ignore_eos": True, "n": 8}
SHORT = {"prompt": [5, 6, 7], "max_tokens": 16, "ignore_eos": True}


@dataclass
class Struck:
    """The endpoint, and every process that was ever seen below it."""

    serving: Serving
    seen: set[int] = field(default_factory=set)

    def engine(self) -> list[int]:
        """All processes of the engine that will be struck."""
        family = family_of(self.serving.workers()[STRUCK])
        self.seen.update(family_of(self.serving.process.pid))
        return family


@pytest.fixture(scope="module")
def struck(engines: Serving) -> Struck:
    return Struck(engines)


@dataclass(frozen=True)
class Fault:
    """`told` is what affected clients may get: status, and code of the error; `within_s` how soon."""

    number: int
    victims: Callable[[list[int]], list[int]]
    told: tuple[tuple[int, str | int], ...]
    within_s: tuple[float, float]
    reasons: tuple[str, ...]


AT_ONCE_S = (0.0, 5.0)
FAULTS = {
    "API server killed": Fault(
        signal.SIGKILL,
        lambda family: family[:1],
        ((502, "worker_lost"),),
        AT_ONCE_S,
        "it was killed (SIGKILL), perhaps for want of memory",
    ),
    # The API server lives on for a moment and tells its clients itself, unless its end or its health is seen first.
    "engine core killed": Fault(
        signal.SIGKILL,
        lambda family: [pid for pid in family if is_engine_core(pid)],
        ((500, 500), (502, "worker_lost")),
        AT_ONCE_S,
        (
            "it answered 503 when asked for its health",
            "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
        ),
    ),
    # A look at its health may be under way and lasts half the patience at most; the time for the rest is the machine's.
    "all processes stopped": Fault(
        signal.SIGSTOP,
        lambda family: family,
        ((502, "worker_lost"),),
        (ENGINE_HEALTH_S / 2, ENGINE_HEALTH_S + 5),
        (f"it did not answer for {ENGINE_HEALTH_S:g} s",),
    ),
}


@dataclass
class Told:
    """What one affected client got, and when that ended."""

    status: int = 0
    body: bytes = b""
    cut: bool = False
    ended_s: float = 0.0

    def ask(self, url: str, body: dict[str, Any]) -> None:
        with httpx.Client(timeout=120) as client, client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            self.status = answer.status_code
            try:
                for piece in answer.iter_raw():
                    self.body += piece
            except httpx.RemoteProtocolError:
                self.cut = True
        self.ended_s = time.monotonic()

    @property
    def error(self) -> dict[str, Any]:
        """Of the answer, or of the last event that is one."""
        events = [event for event in self.body.decode().split("data: ") if event.startswith("{")]
        return dict(json.loads(events[-1])["error"])


@pytest.mark.parametrize("name", FAULTS)
def test_a_struck_engine_costs_its_own_clients_an_error_and_comes_back(struck: Struck, name: str) -> None:
    fault, serving, family = FAULTS[name], struck.serving, struck.engine()
    streamed, plain = Told(), Told()
    callers = [
        threading.Thread(target=told.ask, args=(serving.url, {**LONG, "stream": told is streamed}))
        for told in (plain, streamed)
    ]
    with loaded(serving, {"model": SPARED, **SHORT}, clients=1, pause_s=PAUSE_S) as statuses:
        # What the gateway has just let in may still be refused a connection: the engine answers who came second.
        for caller, inside in zip(callers, (1, 2), strict=True):
            caller.start()
            eventually(lambda inside=inside: _inside(serving) == inside, 30, "it is inside")
        eventually(lambda: streamed.body, 30, "one is being answered")
        for pid in fault.victims(family):
            os.kill(pid, fault.number)
        struck_s = time.monotonic()
        for caller in callers:
            caller.join(60)
        eventually(lambda: serving.states()[STRUCK] == "backoff", 10, "it is out of service")
        reason = serving.client.get(f"/variants/{STRUCK}").json()["reason"]
        eventually(lambda: serving.states()[STRUCK] == "ready", 400, "it is back")
    assert reason in fault.reasons
    for told in (streamed, plain):
        assert set(told.error) == {"message", "type", "param", "code"}
        assert fault.within_s[0] <= told.ended_s - struck_s <= fault.within_s[1]
    assert (plain.status, plain.error["code"]) in fault.told
    assert streamed.status == 200
    assert streamed.error["code"] in {code for _, code in fault.told}
    assert streamed.cut or streamed.body.endswith(b"data: [DONE]\n\n")
    assert set(statuses) == {200}
    assert len(statuses) >= 5
    assert not _alive(family)
    answer = serving.client.post("/v1/completions", json={"model": STRUCK, **SHORT})
    assert answer.json()["usage"]["completion_tokens"] == SHORT["max_tokens"]


def _inside(serving: Serving) -> int:
    return int(serving.client.get(f"/variants/{STRUCK}").json()["in_flight"])


def _alive(pids: list[int] | set[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_of_three_dead_engines_nothing_is_left(struck: Struck) -> None:
    """The server, and of each engine a warden, an API server and its core: of the struck one four times as many."""
    living = family_of(struck.serving.process.pid)
    struck.engine()
    restarts = {name: struck.serving.client.get(f"/variants/{name}").json()["restarts"] for name in (STRUCK, SPARED)}
    assert restarts == {STRUCK: 3, SPARED: 0}
    assert len(struck.seen) >= len(living) + 3 * 3
    assert set(_alive(struck.seen)) == set(living)
