"""What do a thousand clients cost that ask and then do not read? Stated memory, and nobody else's answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from serving_process import Start, eventually, resident_bytes, simulated

from tests.ports import free_port

READERS = 1000
# What the gateway holds for a reader that stands still: 64 KiB that its socket does not take, and one read of 256 KiB.
GATEWAY_BYTES_EACH = 320 * 1024
# What its worker has got rid of, all buffers of the kernel on the way included.
SENT_BYTES_EACH = 1 << 20
EVENT = b"data: " + b"x" * 1016 + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Endless:
    """A worker whose streams never end; like an engine it waits while its socket takes no more."""

    port: int
    sent_bytes: dict[asyncio.Task[None] | None, int] = field(default_factory=dict)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                if b'"stream"' in body:
                    await self._stream(writer)
                writer.write(WHOLE)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.transport.abort()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.sent_bytes[task] = 0
        writer.write(STREAM)
        while True:
            writer.write(CHUNK)
            await writer.drain()
            self.sent_bytes[task] += len(CHUNK)


@contextmanager
def endless() -> Iterator[Endless]:
    """The worker in a thread of its own."""
    worker, loop = Endless(free_port()), asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(worker.answer, "127.0.0.1", worker.port, backlog=READERS)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)

    async def stop() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)

    try:
        yield worker
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def slow_reader(port: int) -> socket.socket:
    """Asks for a stream and reads nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    body = json.dumps({"model": "endless", "prompt": "x", "stream": True}).encode()
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return client


@pytest.mark.timeout(120)
def test_a_thousand_slow_readers(start: Start) -> None:
    with endless() as worker, ExitStack() as stack:
        entries = [{"name": "endless", "url": f"http://127.0.0.1:{worker.port}"}, simulated("other")]
        serving = start(entries, limits={"max_in_flight": 2 * READERS}).until_ready()
        before_bytes = resident_bytes(serving.process.pid)
        for _ in range(READERS):
            stack.enter_context(slow_reader(serving.port))
        eventually(lambda: len(worker.sent_bytes) == READERS, 30, "all streams have begun")
        last = [0]

        def stands_still() -> bool:
            last.append(sum(worker.sent_bytes.values()))
            return last[-1] == last[-2] > 0

        eventually(stands_still, 30, "nothing flows any more")
        assert max(worker.sent_bytes.values()) <= SENT_BYTES_EACH
        assert resident_bytes(serving.process.pid) - before_bytes <= READERS * GATEWAY_BYTES_EACH
        answer = serving.client.post("/v1/completions", json={"model": "other", "prompt": "x", "max_tokens": 3})
        assert answer.status_code == 200
        assert "prunebench_requests_in_flight" in serving.client.get("/metrics").text
        stack.close()
        eventually(lambda: _in_flight(serving.client.get("/metrics").text) == 0, 20, "all places are free again")


def _in_flight(page: str) -> float:
    (line,) = [
        line for line in page.splitlines() if line.startswith('prunebench_requests_in_flight{variant="endless"}')
    ]
    return float(line.rsplit(" ", 1)[1])
