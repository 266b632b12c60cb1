"""Is a variant served while one of its servers lives, is nothing sent twice, and does a name lead where it should?"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from data_path import BODY, OK, PLAIN, Caller, DataPath, forwarding
from prometheus_client.parser import text_string_to_metric_families
from remote_engine import engines
from serving_process import Serving, Start, eventually, simulated

from artifacts.fleet import Fleet
from server.doorkeeper import Doorkeeper
from server.forward import Forwarder
from server.lifecycle import Lifecycle
from server.metrics import GatewayMetrics, ObservedRequest
from server.registry import Registry, ServedVariant

SERVED = PLAIN.replace(b"X-Own: 1", b"Connection: keep-alive")


class Pair:
    """Two servers of one variant; each treats its connections with a function of its own and notes what it reads."""

    def __init__(self, folder: Path) -> None:
        self.paths = [f"{folder}/{name}.sock" for name in "01"]
        document = {"variants": [{"name": "a", "url": [f"unix:{path}" for path in self.paths]}]}
        self.registry = Registry(Fleet.parse(document, "the test's fleet"), str(folder))
        self.observed: list[ObservedRequest] = []
        metrics = GatewayMetrics(self.registry)
        metrics.observe = self.observed.append  # type: ignore[method-assign]
        self.forwarder = Forwarder(self.registry, metrics, Doorkeeper(None))
        self.read: list[list[bytes]] = [[], []]
        self.variant.lifecycle = Lifecycle(state="ready")

    @property
    def variant(self) -> ServedVariant:
        return next(iter(self.registry))

    async def ask(self) -> Caller:
        return await Caller().ask(self.forwarder)

    def run(self, answers: tuple[bytes | None, bytes | None], use: Callable[[Pair], Awaitable[None]]) -> None:
        """`answers` by server: bytes, none at all (b"": it hangs up), or None for nobody there."""

        async def main() -> None:
            async with contextlib.AsyncExitStack() as servers, asyncio.timeout(10):
                for index, answer in enumerate(answers):
                    if answer is not None:
                        listening = await asyncio.start_unix_server(self._serving(index, answer), self.paths[index])
                        await servers.enter_async_context(listening)
                await use(self)
                for replica in self.variant.replicas:
                    replica.pool.close()
                    assert replica.in_flight == 0
            assert self.variant.gate.in_flight == 0

        asyncio.run(main())

    def _serving(self, index: int, answer: bytes) -> Callable[..., Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            self.read[index].append(head + await reader.readexactly(len(BODY)))
            writer.write(answer)
            writer.close()

        return serve


FAILOVERS = [
    ((None, SERVED), 200, (0, 1), (1, 0), "nobody listens at the first: the second answers"),
    ((b"", SERVED), 502, (1, 0), (1, 0), "the first hangs up on the request: it may have begun"),
    ((b"HTTP/1.1 2", SERVED), 502, (1, 0), (1, 0), "the first dies in its status line"),
    ((OK.replace(b"200 OK", b"503 No") + b"Content-Length: 0\r\n\r\n", SERVED), 503, (1, 0), (0, 0), "its word counts"),
    ((None, None), 503, (0, 0), (1, 1), "nobody anywhere"),
    ((SERVED, None), 200, (1, 0), (0, 0), "all is well"),
]


@pytest.mark.parametrize(("answers", "status", "read", "failures", "what"), FAILOVERS, ids=[f[-1] for f in FAILOVERS])
def test_a_request_is_begun_once(
    tmp_path: Path, answers: Any, status: int, read: tuple[int, int], failures: tuple[int, int], what: str
) -> None:
    async def use(pair: Pair) -> None:
        client = await pair.ask()
        assert (client.status, client.ended) == (status, True), what
        assert tuple(map(len, pair.read)) == read
        assert tuple(replica.health.failures for replica in pair.variant.replicas) == failures
        assert [request.code for request in pair.observed] == [status]

    Pair(tmp_path).run(answers, use)


def test_a_replica_that_refuses_is_left_alone_after_three_requests(tmp_path: Path) -> None:
    async def use(pair: Pair) -> None:
        assert [(await pair.ask()).status for _ in range(8)] == [200] * 8
        assert (pair.variant.replicas[0].health.failures, len(pair.read[1])) == (3, 8)
        assert pair.variant.lifecycle.state == "ready"

    Pair(tmp_path).run((None, SERVED), use)


def test_without_any_replica_the_variant_says_why(tmp_path: Path) -> None:
    async def use(pair: Pair) -> None:
        codes = [(await pair.ask()).code for _ in range(4)]
        assert codes == ["worker_unreachable"] * 3 + ["model_not_ready"]
        refused = await pair.ask()
        assert f"unix:{tmp_path}/0.sock: No such file or directory" in json.loads(refused.answer)["error"]["message"]

    Pair(tmp_path).run((None, None), use)


def test_a_stale_connection_and_then_a_refusal_is_not_tried_elsewhere(tmp_path: Path) -> None:
    """The idle connection took the request before it closed: the engine may have seen it."""

    async def use(pair: Pair) -> None:
        first = pair.variant.replicas[0].pool
        assert (await pair.ask()).status == 200
        held = await first.connect()
        held.uses, held.complete, held.reusable = 1, True, True
        first.give_back(held)
        unlink()
        assert (await pair.ask()).code == "worker_lost"
        assert [len(read) for read in pair.read] == [2, 0]

    pair = Pair(tmp_path)
    unlink = Path(pair.paths[0]).unlink
    serve = pair._serving

    def serving(index: int, answer: bytes) -> Callable[..., Awaitable[None]]:
        """Answers the first request only."""

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(index, b"" if pair.read[index] else answer)(reader, writer)

        return once

    pair._serving = serving  # type: ignore[method-assign]
    pair.run((SERVED, SERVED), use)


ALIASED = {"aliases": {"both": {"a": 2}, "one": "a"}}


@pytest.mark.parametrize(
    ("body", "arrives"),
    [
        (BODY, BODY),
        (b'{"prompt":\t"\\u00e4", "model":"a","x":1e5}\n', None),
        (b'{"model": "one", "prompt": "\xc3\xa4"}', b'{"model": "a", "prompt": "\xc3\xa4"}'),
        (b'{"model": "both", "n": 10000000000000000000001}', b'{"model": "a", "n": 10000000000000000000001}'),
    ],
)
def test_only_an_aliased_body_is_written_anew(tmp_path: Path, body: bytes, arrives: bytes | None) -> None:
    async def use(path: DataPath) -> None:
        client = await path.ask(Caller(body=body))
        assert path.requests[0].partition(b"\r\n\r\n")[2] == (arrives or body)
        assert dict(client.got)[b"x-prunebench-variant"] == b"a"

    forwarding(tmp_path, PLAIN, use, **ALIASED)


def counted(serving: Serving, model: str, requests: int) -> Counter[str]:
    """Answers by the variant that gave them."""
    found: Counter[str] = Counter()
    for _ in range(requests):
        answer = serving.client.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 1})
        assert answer.status_code == 200, answer.text
        found[answer.headers["x-prunebench-variant"]] += 1
    return found


def test_a_thousand_requests_are_split_exactly_and_each_variant_is_named(start: Start) -> None:
    quick = ("--ttft-ms", "0", "--itl-ms", "0")
    aliases = {"canary": {"dense": 0.9, "pruned": 0.1}, "latest": "pruned"}
    serving = start([simulated("dense", *quick), simulated("pruned", *quick)], aliases=aliases).until_ready()
    assert counted(serving, "canary", 1000) == {"dense": 900, "pruned": 100}
    assert counted(serving, "latest", 10) == {"pruned": 10}
    assert counted(serving, "dense", 10) == {"dense": 10}
    assert _metric(serving, "prunebench_requests_total") == {("dense", ""): 910, ("pruned", ""): 110}
    assert _metric(serving, "vllm:generation_tokens_total") == {("dense", ""): 911, ("pruned", ""): 111}


def _metric(serving: Serving, name: str) -> dict[tuple[str, str], float]:
    """By variant and replica."""
    families = text_string_to_metric_families(serving.client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {(s.labels["variant"], s.labels.get("replica", "")): s.value for s in samples}


def test_one_engine_behind_two_names(start: Start) -> None:
    with engines("theirs") as (engine,):
        fleet = [{"name": name, "url": f"{engine.url}/v1", "served_name": "theirs"} for name in ("first", "second")]
        serving = start(fleet).until_ready()
        before = engine.tokens
        for name in ("first", "second"):
            body = {"model": name, "prompt": "a b", "max_tokens": 3}
            answer = serving.client.post("/v1/completions", json=body)
            direct = httpx.post(f"{engine.url}/v1/completions", json={**body, "model": "theirs"})
            assert answer.headers["x-prunebench-variant"] == name
            assert answer.json()["model"] == "theirs"
            assert answer.json()["choices"] == direct.json()["choices"]
        assert engine.tokens - before == 12
        assert serving.client.post("/v1/completions", json={"model": "theirs", "prompt": "x"}).status_code == 404


def test_a_variant_outlives_its_servers_one_by_one_and_comes_back(start: Start) -> None:
    with engines("m", "m") as (near, far):
        serving = start([{"name": "m", "url": [near.url, far.url]}, simulated("other")]).until_ready()
        up = lambda: {url: value for (_, url), value in _metric(serving, "prunebench_replica_up").items()}  # noqa: E731
        eventually(lambda: up() == {near.url: 1, far.url: 1}, 10, "both have been asked")

        near.die()
        assert counted(serving, "m", 20) == {"m": 20}
        assert up() == {near.url: 0, far.url: 1}
        [gone, well] = serving.client.get("/v1/models/m").json()["prunebench"]["replicas"]
        assert (gone["url"], gone["up"], gone["reason"]) == (near.url, False, "Connection refused")
        assert (well["url"], well["up"], well["reason"]) == (far.url, True, None)
        assert serving.states() == {"m": "ready", "other": "ready"}

        far.die()
        refused = [serving.client.post("/v1/completions", json={"model": "m", "prompt": "x"}) for _ in range(4)]
        assert {answer.status_code for answer in refused} == {503}
        assert (
            f"{near.url}: Connection refused, {far.url}: Connection refused" in refused[-1].json()["error"]["message"]
        )
        assert serving.states() == {"m": "backoff", "other": "ready"}
        assert counted(serving, "other", 3) == {"other": 3}

        near.live()
        eventually(lambda: serving.states()["m"] == "ready", 10, "one is back")
        assert counted(serving, "m", 5) == {"m": 5}
        assert up() == {near.url: 1, far.url: 0}
        assert serving.stop()["variants"]["m"]["restarts"] == 0


def test_a_dead_server_is_found_without_a_request(start: Start) -> None:
    with engines("m") as (engine,):
        serving = start([{"name": "m", "url": engine.url}]).until_ready()
        engine.die()
        eventually(lambda: serving.states() == {"m": "backoff"}, 15, "the probes have found it")
        assert "Connection refused" in serving.client.get("/ready").json()["variants"]["m"]["reason"]
