"""How other clients read a stream: the same closed loop around aiohttp, httpx, the openai client and FastHttpUser.

    python -m benchmarks.client_peers NAME PORT STREAMS TOKENS LEAD_IN_S WINDOW_S

Prints JSON: processor seconds of the window, tokens that arrived in it, TTFTs and gaps of the requests that began in
it. Each client is used as its own documentation reads a stream; the clock is read when it hands over an event.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.priority import served_first
from loadtest.prompts import first_output_tokens

PROMPT = list(range(3, 19))
Ask = Callable[[dict[str, Any]], AsyncIterator[object]]


class Loop:
    """Who asks when, and what was seen of it."""

    def __init__(self, streams: int, tokens: int, lead_in_s: float, window_s: float) -> None:
        self.streams, self._tokens = streams, tokens
        self._open_s = perf_counter() + 0.2 + lead_in_s
        self._close_s = self._open_s + window_s
        self._cpu_s = [0.0, 0.0]
        self._requests: list[tuple[float, list[float]]] = []

    def bodies(self, stream: int) -> Iterator[dict[str, Any]]:
        """What one stream asks for in turn, until the window closes; the first is cut, to spread the streams."""
        tokens = first_output_tokens(self._tokens, stream, self.streams)
        while perf_counter() < self._close_s:
            yield {"model": "m", "prompt": PROMPT, "max_tokens": tokens, "stream": True, "temperature": 0}
            tokens = self._tokens

    def begin(self) -> list[float]:
        """A request starts; times of its events go into the list."""
        times: list[float] = []
        self._requests.append((perf_counter(), times))
        return times

    def meter(self) -> Iterator[float]:
        """Yields the seconds to sleep before each reading of the processor's clock."""
        for which, at_s in enumerate((self._open_s, self._close_s)):
            yield at_s - perf_counter()
            self._cpu_s[which] = process_time()

    def result(self) -> dict[str, Any]:
        counted = [(began_s, times) for began_s, times in self._requests if self._open_s <= began_s < self._close_s]
        return {
            "cpu_s": self._cpu_s[1] - self._cpu_s[0],
            "tokens": sum(self._open_s <= t < self._close_s for _, times in self._requests for t in times),
            "firsts_s": [times[0] - began_s for began_s, times in counted if times],
            "gaps_s": [b - a for _, times in counted for a, b in itertools.pairwise(times)],
        }


def has_token(line: bytes | str) -> bool:
    """As every such script does it: parse the event, look for text."""
    data = line.removeprefix(b"data: " if isinstance(line, bytes) else "data: ")  # type: ignore[arg-type]
    if len(data) == len(line) or data.strip() in (b"[DONE]", "[DONE]"):
        return False
    choices = json.loads(data)["choices"]
    return bool(choices and choices[0]["text"])


async def drive(loop: Loop, ask: Ask) -> None:
    async def one(stream: int) -> None:
        for body in loop.bodies(stream):
            times = loop.begin()
            async for _ in ask(body):
                times.append(perf_counter())

    async def meter() -> None:
        for wait_s in loop.meter():
            await asyncio.sleep(wait_s)

    await asyncio.gather(meter(), *(one(stream) for stream in range(loop.streams)))


async def with_aiohttp(loop: Loop, url: str) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:

        async def ask(body: dict[str, Any]) -> AsyncIterator[object]:
            async with session.post(f"{url}/v1/completions", json=body) as response:
                async for line in response.content:
                    if has_token(line):
                        yield line

        await drive(loop, ask)


async def with_httpx(loop: Loop, url: str) -> None:
    import httpx

    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits()) as client:

        async def ask(body: dict[str, Any]) -> AsyncIterator[object]:
            async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if has_token(line):
                        yield line

        await drive(loop, ask)


async def with_openai(loop: Loop, url: str) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=None) as client:

        async def ask(body: dict[str, Any]) -> AsyncIterator[object]:
            async for event in await client.completions.create(**body):
                if event.choices and event.choices[0].text:
                    yield event

        await drive(loop, ask)


def with_fast_http_user(loop: Loop, url: str) -> None:
    """Locust's own quick client, in the greenlets that its users are."""
    import gevent
    from locust.contrib.fasthttp import FastHttpUser
    from locust.env import Environment

    environment = Environment()

    def one(stream: int) -> None:
        user = type("Reader", (FastHttpUser,), {"host": url})(environment)
        for body in loop.bodies(stream):
            times = loop.begin()
            for line in user.client.iter_lines("/v1/completions", method="POST", json=body):
                if has_token(line):
                    times.append(perf_counter())

    def meter() -> None:
        for wait_s in loop.meter():
            gevent.sleep(wait_s)

    gevent.joinall([gevent.spawn(meter), *(gevent.spawn(one, stream) for stream in range(loop.streams))])


PEERS: dict[str, Callable[[Loop, str], Awaitable[None] | None]] = {
    "aiohttp": with_aiohttp,
    "httpx": with_httpx,
    "openai": with_openai,
    "FastHttpUser": with_fast_http_user,
}


def main(arguments: list[str]) -> None:
    name, port, streams, tokens, lead_in_s, window_s = arguments
    if name == "FastHttpUser":
        import locust  # noqa: F401  (patches sockets, before anything holds one)
    loop = Loop(int(streams), int(tokens), float(lead_in_s), float(window_s))
    gc.collect()
    gc.disable()
    with served_first():
        running = PEERS[name](loop, f"http://127.0.0.1:{port}")
        if running is not None:
            asyncio.run(running)  # type: ignore[arg-type]
    sys.stdout.write(json.dumps(loop.result()))


if __name__ == "__main__":
    main(sys.argv[1:])
