"""What do clients see of a worker that answers nonsense, breaks off or falls silent, while another variant is busy?

The workers are servers of somebody else's: they answer `/health` and a first completion as they should, and a request
that says `strike` in their own way.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import pytest
from serving_process import Serving, eventually, launcher, loaded, simulated

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
EVENT = b"data: 1\n\n"
HEAD = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BEGUN = HEAD + b"9\r\n" + EVENT + b"\r\n"
PATIENCE_S = 1.5


@dataclass(frozen=True)
class Fault:
    """What the worker says, and whether it then goes on listening; what its client gets: status, body before the error.

    `code` None: an answer that is no stream has no place for an error, and is cut.
    """

    said: bytes
    status: int
    before: bytes = b""
    code: str | None = "worker_lost"
    listens: bool = False


FAULTS = {
    "answers-garbage": Fault(b"SSH-2.0-OpenSSH\r\n", 502),
    "hangs-up": Fault(b"", 502),
    "hangs-up-after-the-head": Fault(HEAD, 502),
    "breaks-off-an-answer": Fault(WHOLE[:-1], 200, b"{", None),
    "breaks-off-a-stream": Fault(BEGUN, 200, EVENT),
    "breaks-off-inside-an-event": Fault(BEGUN + b"7\r\ndata: 2\r\n", 200, EVENT + b"data: 2\n\n"),
    "garbage-in-a-stream": Fault(BEGUN + b"no length\r\n", 200, EVENT),
    "never-begins": Fault(b"", 504, code="first_token_timeout", listens=True),
    "never-goes-on-after-the-head": Fault(HEAD, 504, code="first_token_timeout", listens=True),
    "stops-in-a-stream": Fault(BEGUN, 200, EVENT, "between_tokens_timeout", listens=True),
}


@contextmanager
def worker(fault: Fault) -> Iterator[str]:
    """Its URL."""

    class Struck(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                length = 0
                while line.strip():
                    name, _, value = line.lower().partition(b":")
                    length = int(value) if name == b"content-length" else length
                    line = self.rfile.readline()
                if b"strike" in self.rfile.read(length):
                    self.wfile.write(fault.said)
                    if fault.listens:
                        self.rfile.read(1)
                    return
                self.wfile.write(WHOLE)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Struck) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    timeouts = {"first_token_s": PATIENCE_S, "between_tokens_s": PATIENCE_S}
    with ExitStack() as stack:
        fleet = [{"name": name, "url": stack.enter_context(worker(fault))} for name, fault in FAULTS.items()]
        for start in launcher(tmp_path_factory.mktemp("faulty")):
            serving = start([*fleet, simulated("other")], timeouts=timeouts).until_ready()
            yield serving
            serving.stop()


def told(serving: Serving, name: str) -> tuple[int, bytes, bool]:
    """Status, body, and whether that was cut."""
    body, cut = b"", False
    request = {"model": name, "prompt": "strike", "stream": True}
    with httpx.Client(timeout=30) as client:
        with client.stream("POST", f"{serving.url}/v1/completions", json=request) as answer:
            try:
                for piece in answer.iter_raw():
                    body += piece
            except httpx.RemoteProtocolError:
                cut = True
        return answer.status_code, body, cut


@pytest.mark.parametrize("name", FAULTS)
def test_its_client_is_told_and_nobody_else_notices(serving: Serving, name: str) -> None:
    fault = FAULTS[name]
    with loaded(serving, {"model": "other", "prompt": "x", "max_tokens": 3}, clients=2, pause_s=0) as statuses:
        eventually(lambda: len(statuses) > 5, 10, "the other variant is busy")
        status, body, cut = told(serving, name)
        busy = len(statuses)
        eventually(lambda: len(statuses) > busy + 5, 10, "and stays so")
    assert (status, cut) == (fault.status, fault.status == 200)
    assert body.startswith(fault.before)
    error = body.removeprefix(fault.before).removeprefix(b"data: ")
    if fault.code is None:
        assert error == b""
    else:
        assert json.loads(error)["error"]["code"] == fault.code
    assert set(statuses) == {200}
    again = serving.client.post("/v1/completions", json={"model": name, "prompt": "x"})
    assert (again.status_code, again.content) == (200, b"{}")
    assert serving.states()[name] == "ready"
