"""Shared by the load tester's tests: servers of known truth, requests with short durations, hand-made records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from truth_server import TruthServer

from artifacts.run import Level, RequestRecord, Workload
from loadtest.runner import LoadTestRequest

Serve = Callable[..., TruthServer]


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """`serve(models={...})` starts a TruthServer that lives until the session ends."""
    stops = []

    def start(**settings: Any) -> TruthServer:
        server = TruthServer(**settings)
        stops.append(server.start())
        return server

    yield start
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def ask() -> Callable[..., LoadTestRequest]:
    """A small request; keyword arguments replace its values, `output_tokens` its workload's."""

    def build(url: str, out: Path, **changes: Any) -> LoadTestRequest:
        values: dict[str, Any] = {
            "models": ("a",),
            "against": None,
            "level": Level(concurrency=4),
            "workload": Workload(prompt_tokens=16, output_tokens=changes.pop("output_tokens", 10)),
            "duration_s": 1.0,
            "blocks": 2,
            "warmup_s": 0.1,
        }
        return LoadTestRequest(url=url, out=out, **(values | changes))

    return build


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RequestRecord]:
    """A faultless record of 5 tokens, the first after 20 ms, then one each 10 ms; keyword arguments replace values."""

    def build(scheduled_s: float = 0.0, **changes: Any) -> RequestRecord:
        events = changes.pop("event_s", tuple(scheduled_s + 0.02 + 0.01 * k for k in range(5)))
        values: dict[str, Any] = {
            "model": "a",
            "block": 0,
            "index": 0,
            "warmup": False,
            "scheduled_s": scheduled_s,
            "sent_s": scheduled_s + 0.0001,
            "first_s": events[0] if events else None,
            "last_s": events[-1] if events else None,
            "done_s": (events[-1] if events else scheduled_s) + 0.001,
            "status": 200,
            "error": None,
            "prompt_tokens": 16,
            "output_tokens": len(events),
            "asked_prompt_tokens": 16,
            "asked_output_tokens": 5,
            "finish_reason": "length",
            "reads": len(events),
            "event_s": events,
        }
        return RequestRecord(**(values | changes))

    return build
