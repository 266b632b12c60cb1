"""What does a test without a plan ask for? One completion after the other, for each of Locust's users.

Answers are parsed between requests, on the clock of the other users: for looking, not for publishing.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import gevent

from artifacts.run import Level, RequestRecord, Workload
from loadtest.endpoint import Endpoint
from loadtest.exchange import Place, record_of
from loadtest.limits import Watch, parse_limits
from loadtest.plan import Plan, Segment
from loadtest.protocol import API_KEY_VARIABLE
from loadtest.schedule import planned_request
from loadtest.wire import StreamClient

_BACKOFF_S = 0.05
_TIMEOUT_S = 120.0
_LOOK_S = 1.0


class ByHand:
    """The users' common client. Its nonce is its own, so no two processes or tests share a prompt."""

    def __init__(self, host: str | None, options: Any) -> None:
        key = os.environ.get(API_KEY_VARIABLE)
        endpoint = Endpoint(host or "", key)
        self._plan = Plan(
            url=endpoint.url,
            arms=(options.model or next(iter(endpoint.models())),),
            level=Level(concurrency=1),
            workload=Workload(prompt_tokens=options.prompt_tokens, output_tokens=options.output_tokens),
            blocks=1,
            window_s=1,
            lead_in_s=0,
            timeout_s=_TIMEOUT_S,
            nonce=secrets.randbits(48),
        )
        self._client = StreamClient(endpoint.url, _TIMEOUT_S, key)
        self._indices = itertools.count()

    def request(self) -> RequestRecord:
        index, model = next(self._indices), self._plan.arms[0]
        request = planned_request(self._plan, Segment(arm=0, block=0), index)
        start_ns = perf_counter_ns()
        exchange = self._client.send(request.body, start_ns)
        if exchange.refused:
            gevent.sleep(_BACKOFF_S)
        return record_of(exchange, Place(model=model, arm=0, block=0, index=index, warmup=False), start_ns)


def watch_over(options: Any, stop: Callable[[str], None]) -> Watch:
    """Looks once a second, until `stop` was called with why. Raises ConfigError for limits that are none."""
    watch = Watch(parse_limits(options.stop_on), options.stop_on_window)

    def look() -> None:
        while (said := watch.broken()) is None:
            gevent.sleep(_LOOK_S)
        stop(said)

    if options.stop_on:
        gevent.spawn(look)
    return watch
