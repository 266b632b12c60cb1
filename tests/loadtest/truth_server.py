"""An OpenAI-compatible streaming server whose every token has a known time: what the load tester must recover.

asyncio in a thread of the test process. Tokens are due at absolute times, so that the event loop's lateness does not
add up: token k of a request is due at arrival + ttft + k * itl.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from artifacts.priority import served_first


@dataclass
class Behaviour:
    """One model of the server, faults included. Times in seconds."""

    ttft_s: float = 0.02
    itl_s: float = 0.004
    drop_after_tokens: int | None = None
    error_after_tokens: int | None = None
    fail_every: int = 0
    status: int = 200
    short_by_tokens: int = 0
    tokens_per_write: int = 1
    prefix_hit_share: float = 0.0
    preemptions_per_request: int = 0
    one_at_a_time: bool = False
    stall: tuple[int, float] | None = None
    """(request number, seconds): from that request on, everything of this model waits that long once."""


@dataclass
class TruthServer:
    models: dict[str, Behaviour]
    max_model_len: int | None = None
    api_key: str | None = None
    with_metrics: bool = True
    port: int = 0
    connections: int = 0
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _stalled_until: dict[str, float] = field(default_factory=dict)
    _free_at: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Callable[[], None]:
        """Listens; returns what stops it."""
        ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

        async def main() -> None:
            async with await asyncio.start_server(self._connection, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                ready.set()
                await stop.wait()
                for task in tuple(self._connections):
                    task.cancel()
                await asyncio.gather(*self._connections)

        def run() -> None:
            with served_first():  # on a busy machine the truth must not come late either
                loop.run_until_complete(main())
            loop.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(10)

        def stopper() -> None:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)

        return stopper

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections += 1
        try:
            while (line := await reader.readline()).strip():
                method, path, _ = line.decode().split()
                self.paths += [path] if method == "POST" else []
                headers = await _headers(reader)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
                    _whole(writer, 401, {"error": {"message": "no key"}})
                elif method == "POST":
                    await self._completion(json.loads(body), writer)
                else:
                    self._get(path, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    def _get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            entries = [
                {"id": name, "max_model_len": self.max_model_len, "prunebench": {"fingerprint": "f00d"}}
                for name in self.models
            ]
            _whole(writer, 200, {"data": entries})
        elif path == "/metrics" and self.with_metrics:
            _whole(writer, 200, self._metrics())
        else:
            _whole(writer, 404, {"error": {"message": "no such path"}})

    def _metrics(self) -> str:
        lines = []
        for name in (
            "prompt_tokens",
            "generation_tokens",
            "prefix_cache_queries",
            "prefix_cache_hits",
            "num_preemptions",
        ):
            lines.append(f"# TYPE vllm:{name}_total counter")
            for model in self.models:
                value = self.counters.get(model, {}).get(name, 0)
                lines.append(f'vllm:{name}_total{{engine="0",model_name="{model}"}} {value}')
        return "\n".join(lines) + "\n"

    async def _completion(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        arrival, model = loop.time(), str(body["model"])
        behaviour = self.models[model]
        number = sum(b["model"] == model for b in self.bodies)
        self.bodies.append(body)
        self._count(model, body, behaviour)
        if behaviour.status != 200:
            return _whole(writer, behaviour.status, {"error": {"message": "overloaded"}})
        if behaviour.stall is not None and number == behaviour.stall[0]:
            self._stalled_until[model] = arrival + behaviour.stall[1]
        start = max(arrival, self._stalled_until.get(model, 0.0))
        if behaviour.one_at_a_time:
            start = max(start, self._free_at.get(model, 0.0))
            self._free_at[model] = start + behaviour.ttft_s + (body["max_tokens"] - 1) * behaviour.itl_s
        faulty = behaviour.fail_every and number % behaviour.fail_every == behaviour.fail_every - 1
        await self._stream(body, behaviour, start, bool(faulty), writer)
        return None

    def _count(self, model: str, body: dict[str, Any], behaviour: Behaviour) -> None:
        counts = self.counters.setdefault(model, {})
        length = len(body["prompt"])
        for name, value in (
            ("prompt_tokens", length),
            ("generation_tokens", body["max_tokens"]),
            ("prefix_cache_queries", length),
            ("prefix_cache_hits", length * behaviour.prefix_hit_share),
            ("num_preemptions", behaviour.preemptions_per_request),
        ):
            counts[name] = counts.get(name, 0) + value

    async def _stream(
        self, body: dict[str, Any], b: Behaviour, start: float, faulty: bool, writer: asyncio.StreamWriter
    ) -> None:
        loop, tokens = asyncio.get_running_loop(), body["max_tokens"] - b.short_by_tokens
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for first in range(0, tokens, b.tokens_per_write):
            count = min(b.tokens_per_write, tokens - first)
            await asyncio.sleep(start + b.ttft_s + (first + count - 1) * b.itl_s - loop.time())
            if faulty and b.drop_after_tokens is not None and first >= b.drop_after_tokens:
                raise ConnectionResetError
            if faulty and b.error_after_tokens is not None and first >= b.error_after_tokens:
                writer.write(_chunk({"error": {"message": "engine died", "code": 500}}))
                break
            pieces = []
            for k in range(first, first + count):
                finish = "length" if k == tokens - 1 else None
                pieces.append(_chunk({"choices": [{"index": 0, "text": "a", "finish_reason": finish}]}))
            writer.write(b"".join(pieces))
            await writer.drain()
        else:
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens}
            writer.write(_chunk({"choices": [], "usage": usage}))
        writer.write(_chunk("[DONE]"))
        writer.write(b"0\r\n\r\n")


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return headers


def _whole(writer: asyncio.StreamWriter, status: int, content: object) -> None:
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


def _chunk(event: object) -> bytes:
    data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)
