"""Runs `prunebench serve` as a child process for the demo: started, watched until ready, and always ended."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts.errors import ServingError
from artifacts.progress import Progress
from server.warden import under_warden

_STAGE = "start vLLM, one process per variant"
_START_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 30.0


@contextmanager
def running_server(fleet_file: Path, log_file: Path, progress: Progress) -> Iterator[str]:
    """Yields the base URL once every variant has generated a token.

    Raises ServingError with the last line of the log if the server ends early or is not ready in time.
    """
    port = _free_port()
    # The warden ends the server when our end of its standard input closes, however this process ends.
    serve = [sys.executable, "-m", "prunebench", "serve", str(fleet_file), "--port", str(port)]
    command = under_warden(_STOP_TIMEOUT_S, log_file.resolve(), serve)
    log_file.write_bytes(b"")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.PIPE, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(child, url, log_file, progress)
        yield url
    finally:
        child.communicate()


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, log_file: Path, progress: Progress) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise ServingError(f"The server ended while starting: {_last_line(log_file)} The whole log is {log_file}.")
        states = _variant_states(url)
        ready = sum(state == "ready" for state in states)
        if states:
            progress(_STAGE, ready, len(states))
            if ready == len(states):
                return
        time.sleep(0.5)
    raise ServingError(f"The server was not ready after {_START_TIMEOUT_S:.0f} s. Its log is {log_file}.")


def _variant_states(url: str) -> list[str]:
    """Empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as response:
            body: Any = json.load(response)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return []
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        return []
    return [entry["prunebench"]["state"] for entry in body["data"]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(log_file: Path) -> str:
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing."
