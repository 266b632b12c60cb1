"""A gateway that says what was captured: `/sd`, its own page, and an engine's page for every variant."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from captured import page
from prometheus_client import CollectorRegistry, generate_latest

from server.gpu_metrics import GpuCollector
from tests.nvml import FakeNvml

VARIANTS = ("dense", "ffn-50", "depth-25")


def gpu_page() -> str:
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml()))
    return generate_latest(registry).decode()


class _Pages(BaseHTTPRequestHandler):
    key: str | None = None
    gpus = ""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        variant = parse_qs(asked.query).get("variant", [""])[0]
        if self.key is not None and self.headers.get("Authorization") != f"Bearer {self.key}":
            return self._answer(401, "text/plain", "no key")
        if asked.path == "/sd":
            return self._answer(200, "application/json", json.dumps(self._targets()))
        if variant == "":
            return self._answer(200, "text/plain", page("load test"))
        own = page("gateway") + self.gpus
        return self._answer(200, "text/plain", own if variant == "_gateway" else page("engine"))

    def _targets(self) -> list[dict[str, object]]:
        here = self.headers["Host"]
        gateway = {"__metrics_path__": "/metrics", "__param_variant": "_gateway"}
        engines = [{**gateway, "__param_variant": name, "variant": name} for name in VARIANTS]
        return [{"targets": [here], "labels": labels} for labels in (gateway, *engines)]

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place."""


@contextmanager
def pages(key: str | None = None, gpus: str = "") -> Iterator[str]:
    """Yields HOST:PORT. The load test's page is the one without a variant."""
    handler = type("Pages", (_Pages,), {"key": key, "gpus": gpus})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
