"""Is the simulator as regular as it claims, so that what a client measures against it is the client's own error?"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from server.pool import Address, Exchange, UpstreamPool, fetch, request_bytes
from server.simulated import BadRequest, Completion
from server.simulator import Simulation, SimulatorProtocol

TTFT_S, ITL_S, TOKENS = 0.030, 0.010, 40


async def _read_times(pool: UpstreamPool, path: str, body: dict[str, object]) -> tuple[list[float], bytes]:
    """Seconds after sending at which pieces came, and all bytes."""
    loop = asyncio.get_running_loop()
    exchange = Exchange(pool)
    request = request_bytes(pool.address, "POST", path, [], json.dumps(body).encode())
    sent_s = loop.time()
    await exchange.start(request)
    times: list[float] = []
    pieces: list[bytes] = []

    def note(piece: bytes, last: bool) -> None:
        times.append(loop.time() - sent_s)
        pieces.append(piece)

    await exchange.relay(note)
    exchange.finish()
    return times, b"".join(pieces)


async def _with_simulator(socket_path: Path, simulation: Simulation) -> tuple[asyncio.Server, UpstreamPool]:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: SimulatorProtocol(simulation, loop), str(socket_path))
    return server, UpstreamPool(Address(socket_path=str(socket_path)))


def test_tokens_leave_on_the_absolute_schedule(tmp_path: Path) -> None:
    async def run() -> list[float]:
        simulation = Simulation("m", TTFT_S, ITL_S)
        server, pool = await _with_simulator(tmp_path / "sim.sock", simulation)
        body = {"model": "m", "prompt": "x", "max_tokens": TOKENS, "stream": True}
        times, _ = await _read_times(pool, "/v1/completions", body)
        assert (simulation.tokens, simulation.finished, simulation.running) == (TOKENS, 1, 0)
        pool.close()
        server.close()
        return times

    times = asyncio.run(run())
    assert len(times) == TOKENS
    errors_s = [time - (TTFT_S + index * ITL_S) for index, time in enumerate(times)]
    assert min(errors_s) > -0.002
    assert statistics.median(errors_s) < 0.005
    gaps_s = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.median(gaps_s) == pytest.approx(ITL_S, abs=0.002)


def test_a_whole_answer_comes_when_its_last_token_is_due(tmp_path: Path) -> None:
    async def run() -> float:
        server, pool = await _with_simulator(tmp_path / "sim.sock", Simulation("m", TTFT_S, ITL_S))
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 8}
        [time_s], _ = await _read_times(pool, "/v1/chat/completions", body)
        assert (await fetch(pool, "GET", "/health"))[0] == 200
        assert (await fetch(pool, "GET", "/nothing"))[0] == 404
        assert b'"id":"m"' in (await fetch(pool, "GET", "/v1/models"))[1]
        pool.close()
        server.close()
        return time_s

    due_s = TTFT_S + 7 * ITL_S
    times_s = [asyncio.run(run()) for _ in range(3)]
    assert due_s - 0.002 < min(times_s) < due_s + 0.1


def parsed(chat: bool = False, **fields: object) -> Completion:
    asked = {"messages": [{"role": "user", "content": "a b"}]} if chat else {"prompt": "a b"}
    return Completion.parse(json.dumps({"model": "m", **asked, **fields}).encode(), chat=chat, served="m")


@pytest.mark.parametrize("chat", [False, True])
def test_stream_and_whole_say_the_same(chat: bool) -> None:
    completion = parsed(chat, max_tokens=5)
    choice = json.loads(completion.whole())["choices"][0]
    events = [json.loads(completion.token_event(i).removeprefix(b"data: "))["choices"][0] for i in range(5)]
    pieces = [event["delta"]["content"] if chat else event["text"] for event in events]
    assert "".join(pieces) == (choice["message"]["content"] if chat else choice["text"])
    assert [event["finish_reason"] for event in events] == [None] * 4 + ["length"]


PROMPTS = [
    ({"prompt": "one two three"}, False, 3, "words"),
    ({"prompt": [1, 2, 3, 4]}, False, 4, "token ids"),
    ({"messages": [{"content": "a b"}, {"content": "c"}]}, True, 3, "words of all messages"),
]


@pytest.mark.parametrize(("asked", "chat", "tokens", "what"), PROMPTS)
def test_prompt_tokens(asked: dict[str, object], chat: bool, tokens: int, what: str) -> None:
    body = json.dumps({"model": "m", "max_completion_tokens": 2, **asked}).encode()
    usage = Completion.parse(body, chat=chat, served="m").usage
    assert usage == {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}, what


REFUSED = [
    (b"{", 400, "not JSON"),
    (b"[]", 404, "no object"),
    (b'{"model": "other", "prompt": "x"}', 404, "another model"),
    (b'{"model": "m"}', 400, "no prompt"),
    (b'{"model": "m", "prompt": "x", "max_tokens": -1}', 400, "fewer than no tokens"),
    (b'{"model": "m", "prompt": "x", "max_tokens": "9"}', 400, "a number in quotes"),
]


@pytest.mark.parametrize(("body", "status", "what"), REFUSED)
def test_refusals(body: bytes, status: int, what: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Completion.parse(body, chat=False, served="m")
    assert caught.value.status == status, what
    assert json.loads(caught.value.body)["error"]["message"]


def test_the_same_request_gets_the_same_bytes() -> None:
    assert parsed(max_tokens=3).whole() == parsed(max_tokens=3).whole()
    assert parsed(max_tokens=3).identity != parsed(max_tokens=4).identity


@pytest.mark.parametrize("options", ["x", [1], 7, True, 1e308])
def test_stream_options_that_are_no_object_are_refused(options: object) -> None:
    body = json.dumps({"model": "m", "prompt": "x", "stream_options": options}).encode()
    with pytest.raises(BadRequest) as caught:
        Completion.parse(body, chat=False, served="m")
    assert caught.value.status == 400


def _waits(simulation: Simulation) -> float:
    (line,) = [x for x in simulation.metrics().decode().splitlines() if x.startswith("vllm:num_requests_waiting{")]
    return float(line.split()[-1])


def test_requests_beyond_the_streams_wait_for_their_turn(tmp_path: Path) -> None:
    """Five requests on two streams come in three rounds; each round takes one service time."""

    async def run() -> tuple[list[float], float, int]:
        simulation = Simulation("m", TTFT_S, ITL_S, max_streams=2)
        server, pool = await _with_simulator(tmp_path / "sim.sock", simulation)
        body = {"model": "m", "prompt": "x", "max_tokens": 4, "stream": True}
        asking = [asyncio.ensure_future(_read_times(pool, "/v1/completions", body)) for _ in range(5)]
        await asyncio.sleep(TTFT_S / 2)
        waiting, running = _waits(simulation), simulation.running
        firsts = [times[0] for times, _ in await asyncio.gather(*asking)]
        assert (simulation.finished, simulation.running, _waits(simulation)) == (5, 0, 0)
        pool.close()
        server.close()
        return sorted(firsts), waiting, running

    firsts, waiting, running = asyncio.run(run())
    service_s = TTFT_S + 3 * ITL_S
    assert (waiting, running) == (3, 2)
    for index, first_s in enumerate(firsts):
        assert TTFT_S + index // 2 * service_s - 0.002 < first_s < TTFT_S + index // 2 * service_s + 0.04


def test_a_client_that_leaves_the_queue_takes_no_place(tmp_path: Path) -> None:
    async def run() -> tuple[int, float]:
        queued = asyncio.Event()

        class Told(deque[Callable[[], None]]):
            def append(self, begin: Callable[[], None]) -> None:
                super().append(begin)
                queued.set()

        simulation = Simulation("m", TTFT_S, ITL_S, max_streams=1, waiting=Told())
        server, pool = await _with_simulator(tmp_path / "sim.sock", simulation)
        body = {"model": "m", "prompt": "x", "max_tokens": 4, "stream": True}
        first = asyncio.ensure_future(_read_times(pool, "/v1/completions", body))
        await asyncio.sleep(TTFT_S / 3)
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "sim.sock"))
        writer.write(request_bytes(pool.address, "POST", "/v1/completions", [], json.dumps(body).encode()))
        await writer.drain()
        await queued.wait()
        writer.close()
        await first
        [time_s, *_], _ = await _read_times(pool, "/v1/completions", body)
        assert (simulation.running, len(simulation.waiting)) == (0, 0)
        pool.close()
        server.close()
        return simulation.finished, time_s

    finished, time_s = asyncio.run(run())
    assert finished == 2
    assert time_s < TTFT_S + 0.04
