"""A simulated engine that somebody else runs: it has a port of its own, dies and comes back when a test says so."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from serving_process import ROOT, eventually

from tests.ports import free_port


@dataclass
class RemoteEngine:
    """`url` stays the same over lives."""

    name: str
    flags: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def live(self) -> RemoteEngine:
        arguments = ("--port", str(self.port), "--served-model-name", self.name, *self.flags)
        self.process = subprocess.Popen([sys.executable, "-m", "server.simulator", *arguments], cwd=ROOT)
        eventually(self._answers, 20, f"{self.name} listens")
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def die(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def tokens(self) -> int:
        """Generated in this life."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        [value] = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("vllm:generation_tokens_total")]
        return int(float(value))


@contextlib.contextmanager
def engines(*names: str, flags: tuple[str, ...] = ("--ttft-ms", "0", "--itl-ms", "0")) -> Iterator[list[RemoteEngine]]:
    running: list[RemoteEngine] = []
    try:
        for name in names:
            running.append(RemoteEngine(name, flags))
            running[-1].live()
        yield running
    finally:
        for engine in running:
            engine.die()
