"""When is a server behind a URL ejected, when readmitted, and how often is it asked in between?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from artifacts.fleet import Fleet
from server import replica_watch
from server.health import CEILING_PROBE_S, EJECT_AFTER, PROBE_EVERY_S, Health, unproven
from server.lifecycle import Lifecycle, State
from server.pool import Address, UpstreamPool
from server.registry import Registry, ServedVariant
from server.replicas import Replica, least_loaded

HISTORIES = [
    ("", False, PROBE_EVERY_S, 0, "nothing has happened"),
    ("x", False, PROBE_EVERY_S, 0, "once is chance"),
    ("xx", False, PROBE_EVERY_S, 0, "twice as well"),
    ("xxx", True, PROBE_EVERY_S, 1, "three in a row eject"),
    ("xx.xx.xx", False, PROBE_EVERY_S, 0, "a success between them starts the count again"),
    ("xxxx", True, 2 * PROBE_EVERY_S, 1, "then it is asked half as often"),
    ("xxxxxx", True, 8 * PROBE_EVERY_S, 1, "and so on"),
    ("x" * 9, True, CEILING_PROBE_S, 1, "up to the ceiling"),
    ("x" * 5000, True, CEILING_PROBE_S, 1, "and not beyond"),
    ("xxx.", False, PROBE_EVERY_S, 1, "one success readmits"),
    ("xxxxxx.xxx", True, PROBE_EVERY_S, 2, "and forgives the interval"),
]


@pytest.mark.parametrize(
    ("history", "ejected", "probe_in_s", "ejections", "why"), HISTORIES, ids=[h[-1] for h in HISTORIES]
)
def test_histories(history: str, ejected: bool, probe_in_s: float, ejections: int, why: str) -> None:
    health = Health()
    for index, outcome in enumerate(history):
        health = health.failed(f"number {index}") if outcome == "x" else health.succeeded()
    assert (health.ejected, health.probe_in_s, health.ejections) == (ejected, probe_in_s, ejections), why
    assert health.reason == (f"number {len(history) - 1}" if history.endswith("x") else None)


def test_the_unproven_get_nothing_before_a_first_success() -> None:
    health = unproven("why")
    assert (health.ejected, health.probe_in_s, health.ejections, health.reason) == (True, PROBE_EVERY_S, 0, "why")
    assert not health.succeeded().ejected
    assert health.failed("again").ejections == 0


def registry(*urls: str) -> tuple[Registry, ServedVariant]:
    made = Registry(Fleet.parse({"variants": [{"name": "far", "url": urls}]}, "the test's fleet"), "/run")
    (variant,) = made
    variant.lifecycle = Lifecycle(state="ready")
    return made, variant


LOADS = [
    ((0, 0, 0), "", "", "0", "of equals the first"),
    ((2, 1, 3), "", "", "1", "the least busy"),
    ((2, 1, 3), "1", "", "0", "of the healthy"),
    ((2, 1, 3), "", "1", "0", "of those not tried"),
    ((2, 1, 3), "2", "1", "0", "of the healthy not tried"),
    ((2, 1, 3), "02", "1", "", "nobody is left"),
    ((2, 1, 3), "012", "", "", "all are ejected"),
]


@pytest.mark.parametrize(("loads", "ejected", "besides", "chosen", "why"), LOADS, ids=[load[-1] for load in LOADS])
def test_who_gets_a_request(loads: tuple[int, ...], ejected: str, besides: str, chosen: str, why: str) -> None:
    replicas = [Replica.at(Address(port=index)) for index in range(len(loads))]
    for index, replica in enumerate(replicas):
        replica.in_flight = loads[index]
        if str(index) in ejected:
            replica.health = unproven("")
    found = least_loaded(replicas, replicas[int(besides)] if besides else None)
    assert ("" if found is None else str(replicas.index(found))) == chosen, why


STORIES: list[tuple[str, State, str, str]] = [
    ("a- a- a-", "ready", "", "one of two is gone"),
    ("a- a- a- b- b-", "ready", "", "the other stumbles"),
    ("a- a- a- b- b- b-", "backoff", "http://a:1: no, http://b:2: no", "both are gone, and it says why"),
    ("a- a- a- b- b- b- b+", "ready", "", "one is back"),
    ("a- a- a- b- b- b- a+ a- a- a-", "backoff", "http://a:1: no, http://b:2: no", "and gone again"),
]


@pytest.mark.parametrize(("story", "state", "reason", "what"), STORIES, ids=[story[-1] for story in STORIES])
def test_a_variant_is_ready_while_one_replica_is_well(story: str, state: State, reason: str, what: str) -> None:
    _, variant = registry("http://a:1/v1", "http://b:2")
    for step, (name, outcome) in enumerate(story.split()):
        variant.note(variant.replicas["ab".index(name)], "no" if outcome == "-" else None, float(step))
    assert variant.lifecycle.state == state, what
    assert (variant.lifecycle.reason or "").removeprefix("no server answers; ") == reason
    assert variant.lifecycle.restarts == 0


def test_a_worker_of_our_own_is_never_ejected() -> None:
    made = Registry(Fleet.parse({"variants": [{"name": "near", "engine": "sim"}]}, "the test's fleet"), "/run")
    (variant,) = made
    for _ in range(2 * EJECT_AFTER):
        variant.note(variant.replicas[0], "no", 0.0)
    assert variant.replicas[0].health == Health()


@pytest.mark.parametrize("state", ["queued", "starting", "stopped"])
def test_probes_change_no_state_but_ready_and_backoff(state: State) -> None:
    _, variant = registry("http://a:1")
    variant.lifecycle = Lifecycle(state=state)
    for failure in ("no", "no", "no", "no", None):
        variant.note(variant.replicas[0], failure, 0.0)
        assert variant.lifecycle == Lifecycle(state=state)


Answer = Callable[[bytes], bytes | None]


def answering(health: bytes | None, models: bytes | None = None) -> Answer:
    """By path: a status, nothing at all (None) or a closed connection (no bytes)."""
    return lambda head: health if b"GET /health " in head else models


PROBES = [
    (answering(b"200 OK"), None, "well"),
    (answering(b"401 No"), None, "it wants a key, so it lives"),
    (answering(b"503 Dead"), "it answers 503", "vLLM's answer for a dead engine"),
    (answering(b"404 No", b"200 OK"), None, "no /health, but models"),
    (answering(b"405 No", b"401 No"), None, "no /health, and models behind a key"),
    (answering(b"404 No", b"500 Oops"), "it answers 500", "no /health, and models fail"),
    (answering(None), "no answer within 0.2 s", "a frozen process"),
    (answering(b"404 No", None), "no answer within 0.2 s", "it freezes on the second question"),
    (answering(b""), "it hung up without an answer", "it closes"),
]


@pytest.mark.parametrize(("answer", "reason", "what"), PROBES, ids=[what for *_, what in PROBES])
def test_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, reason: str | None, what: str) -> None:
    monkeypatch.setattr(replica_watch, "PROBE_TIMEOUT_S", 0.2)

    async def probe(pool: UpstreamPool) -> None:
        assert await replica_watch.why_unwell(pool) == reason, what

    with_server(tmp_path, answer, probe)


def test_a_probe_of_nobody_says_so(tmp_path: Path) -> None:
    pool = UpstreamPool(Address(socket_path=str(tmp_path / "nobody.sock")))
    assert asyncio.run(replica_watch.why_unwell(pool)) == "No such file or directory"


def with_server(folder: Path, answer: Answer, use: Callable[[UpstreamPool], Awaitable[None]]) -> None:
    """Every connection has ended when this returns."""
    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while (status := answer(await reader.readuntil(b"\r\n\r\n"))) != b"":
                if status is not None:
                    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno")
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.ensure_future(serve(reader, writer)))

    async def run() -> None:
        path = f"{folder}/s.sock"
        pool = UpstreamPool(Address(socket_path=path))
        async with await asyncio.start_unix_server(accept, path), asyncio.timeout(10):
            await use(pool)
            pool.close()
            await asyncio.gather(*connections)

    asyncio.run(run())


def test_the_watch_asks_until_cancelled_and_announces_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.health.PROBE_EVERY_S", 0.001)
    _, variant = registry("http://a:1", "http://b:2")
    outcomes = {"http://a:1": [None, "no", "no", None, "no", "no", "no", "no", None], "http://b:2": []}
    told: list[str] = []
    finished = asyncio.Event()

    async def why_unwell(pool: UpstreamPool) -> str | None:
        left = outcomes[pool.address.url]
        if pool.address.port == 1 and not left:
            finished.set()
        return left.pop(0) if left else None

    async def run() -> None:
        watching = asyncio.create_task(replica_watch.watch(variant, told.append))
        async with asyncio.timeout(10):
            await finished.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert watching.cancelled()

    monkeypatch.setattr(replica_watch, "why_unwell", why_unwell)
    asyncio.run(run())
    assert told == ["far: http://a:1 gets no requests for now (no)", "far: http://a:1 gets requests"]
