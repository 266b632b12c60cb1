"""Engines of known speed behind the real gateway, for studies of the load test's statistics."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def simulated_fleet(folder: Path, itl_ms: Mapping[str, float], jitter: float, ttft_ms: float = 10.0) -> Iterator[str]:
    """Yields the gateway's URL; `itl_ms` is by model name. All processes end with the block."""
    with ExitStack() as stack:
        entries = []
        for name, gap_ms in itl_ms.items():
            port = _free_port()
            options = {"--ttft-ms": ttft_ms, "--itl-ms": gap_ms, "--jitter": jitter, "--port": port}
            argv = [
                "-m",
                "server.simulator",
                "--served-model-name",
                name,
                *(str(x) for o in options.items() for x in o),
            ]
            stack.enter_context(_child(argv))
            entries.append({"name": name, "url": [f"http://127.0.0.1:{port}"]})
        fleet, port = folder / "fleet.json", _free_port()
        fleet.write_text(json.dumps({"variants": entries, "state_dir": str(folder / "state")}))
        gateway = stack.enter_context(_child(["-m", "prunebench", "serve", str(fleet), "--port", str(port)]))
        wait_until_ready(gateway, port)
        yield f"http://127.0.0.1:{port}"


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Raises SystemExit if the process ends first."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server ended before it was ready")


@contextmanager
def _child(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
