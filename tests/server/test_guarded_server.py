"""Does a running `serve` keep its keys: taken up while it runs, kept when the file breaks, never shown to anybody?"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from serving_process import Serving, Start, eventually, simulated

from artifacts.keys import KeyFile, add_key

BODY = {"model": "dense", "prompt": "x", "max_tokens": 2}


def status(serving: Serving, key: str, **body: Any) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return serving.client.post("/v1/completions", json=BODY | body, headers=headers).status_code


def test_keys_come_and_go_while_the_server_runs(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice = add_key(path, "alice")
    serving = start([simulated("dense")], keys_file=str(path)).until_ready()
    assert (status(serving, alice), status(serving, "sk-none")) == (200, 401)
    assert serving.client.get("/metrics").status_code == 401
    bob = add_key(path, "bob", "control")
    eventually(lambda: status(serving, bob) == 200, 5, "the new key opens")
    path.write_text("{")
    told = list[str]()
    assert serving.process.stderr is not None
    listener = threading.Thread(target=told.extend, args=(serving.process.stderr,))
    listener.start()
    damaged = f"the API keys stay as they were: {path} cannot be read"
    eventually(lambda: status(serving, alice) == 200 and any(damaged in line for line in told), 5, "it says so")
    assert (status(serving, alice), status(serving, bob)) == (200, 200)
    KeyFile().save(path)
    eventually(lambda: status(serving, alice) == 401, 5, "the removed key no longer opens")
    serving.process.terminate()
    assert serving.process.wait(30) == 0
    listener.join()
    serving.process.communicate()
    logs = "".join(log.read_text() for log in serving.log_dir.iterdir())
    assert not any(key in text for key in (alice, bob) for text in (*told, logs))


@pytest.mark.parametrize(
    ("content", "told"), [(None, "does not exist"), ("{", "cannot be read"), ("[]", "not a valid")]
)
def test_a_missing_or_damaged_key_file_keeps_it_from_starting(
    start: Start, tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    serving = start([simulated("dense")], keys_file=str(path))
    _, errors = serving.process.communicate(timeout=20)
    assert serving.process.returncode == 1
    assert f"error: {path} " in errors
    assert told in errors
    assert "starting" not in errors


def test_a_hundred_who_say_nothing_are_sent_away_and_nobody_else_notices(start: Start) -> None:
    serving = start([simulated("dense")], timeouts={"header_s": 0.5}).until_ready()
    before = _descriptors(serving)
    idle = [socket.create_connection(("127.0.0.1", serving.port), timeout=10) for _ in range(100)]
    for index, connection in enumerate(idle):
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nx: "[: index % 30])
    assert status(serving, "any") == 200
    for connection in idle:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        connection.close()
    eventually(lambda: _descriptors(serving) <= before + 1, 5, "their sockets are closed")
    assert status(serving, "any") == 200


def _descriptors(serving: Serving) -> int:
    return len(list(Path(f"/proc/{serving.process.pid}/fd").iterdir()))
