"""A planned run in a real Locust process shows its page while it runs, and only where it was asked to."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from truth_server import Behaviour, TruthServer

from artifacts.run import load_run
from loadtest.protocol import METRICS_ADDRESS_VARIABLE
from loadtest.runner import LoadTestRequest, run_load_test
from tests.ports import free_port

PREFIX = "prunebench_loadtest_"


class _Scraper(threading.Thread):
    """Asks for the page until told to end; keeps what it got."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._url = f"http://{address}/metrics"
        self._ended = threading.Event()
        self.pages: list[str] = []

    def run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                with urllib.request.urlopen(self._url, timeout=5) as answer:
                    self.pages.append(answer.read().decode())
            except (urllib.error.URLError, OSError):
                continue

    def end(self) -> None:
        self._ended.set()
        self.join()


def sample(page: str, name: str) -> float:
    (line,) = (line for line in page.splitlines() if line.startswith(f"{PREFIX}{name} "))
    return float(line.split()[-1])


def test_page_is_there_during_the_run_and_counts_what_the_records_hold(
    serve: Callable[..., TruthServer],
    ask: Callable[..., LoadTestRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(METRICS_ADDRESS_VARIABLE, address)
    scraper = _Scraper(address)
    scraper.start()
    try:
        run_load_test(ask(serve(models={"a": Behaviour()}).url, tmp_path / "run", duration_s=2.0, blocks=4))
    finally:
        scraper.end()
    full = [page for page in scraper.pages if 'offered_requests_total{variant="a"}' in page]
    assert full
    offered = [sample(page, 'offered_requests_total{variant="a"}') for page in full]
    assert offered == sorted(offered)
    assert len(set(offered)) > 1  # counted segment by segment
    assert {sample(page, 'window_open{variant="a"}') for page in full} <= {0.0, 1.0}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arms"][0]["requests"] >= offered[0]
    assert load_run(tmp_path / "run").arms[0].failures == 0
