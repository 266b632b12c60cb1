"""The face: what Locust loads, for a planned run (`--plan`, started by the runner) or by hand with its web UI.

By hand, Locust's user count is the concurrency: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --model
dense`. Rows: TTFT, TPOT, inter-token latency (ITL) and E2E, in milliseconds, counted to 0.1 ms. Answers are then parsed
between requests, on the clock of the other users: for looking, not for publishing.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import gevent
import locust.stats
from locust import User, events, task
from locust.exception import StopUser

from artifacts.errors import LoadTestError
from artifacts.measures import e2e_s, inter_token_latencies_s, tpot_s, ttft_s
from artifacts.priority import served_first
from artifacts.run import Level, RequestRecord, Workload, write_requests
from loadtest.client_page import ClientPage
from loadtest.conductor import Conductor, Tell
from loadtest.endpoint import Endpoint
from loadtest.exchange import Place, record_of
from loadtest.page_server import shown
from loadtest.plan import Plan, Segment
from loadtest.prompts import prompt_ids, request_body
from loadtest.protocol import API_KEY_VARIABLE, OUTCOME_NAME, RECORDS_NAME, progress_line
from loadtest.wire import StreamClient

_ORPHAN_CHECK_S = 0.5
_BACKOFF_S = 0.05
_TIMEOUT_S = 120.0
_METHOD = "stream"


def bucket_ms(response_time_ms: float) -> float:
    """Locust's histogram key: to 0.1 ms, to 1 ms from a second on (its own rounds to 1 ms and to two figures)."""
    return round(response_time_ms, 1) if response_time_ms < 1000 else float(round(response_time_ms))


locust.stats.bucket_response_time = bucket_ms


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    parser.add_argument("--model", default="", help="served model name; default: the first that the server lists")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="token ids in each prompt")
    parser.add_argument("--output-tokens", type=int, default=64, help="tokens to generate per request")
    parser.add_argument("--plan", default="", include_in_web_ui=False, help="plan file of a planned run")


@events.init.add_listener
def look_at_the_clock(**_: Any) -> None:
    """The loop's clock stands since the imports began; Locust would count their seconds into `--run-time`."""
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener
def come_first(environment: Any, **_: Any) -> None:
    """By hand the whole test is on the clock; the conductor of a plan sees to its own segments."""
    if not environment.parsed_options.plan:
        stack = ExitStack()
        stack.enter_context(served_first())
        environment.events.test_stop.add_listener(lambda **_: stack.close())


class Completions(User):  # type: ignore[misc,unused-ignore]
    """With a plan: plays it, then quits Locust. Without: asks for one completion after the other."""

    def on_start(self) -> None:
        if not self.environment.parsed_options.plan:
            self._by_hand = _ByHand(self.environment.host, self.environment.parsed_options)

    @task
    def complete(self) -> None:
        if plan := self.environment.parsed_options.plan:
            self._play(Path(plan))
            raise StopUser
        _count(self.environment, self._by_hand.request())

    def _play(self, path: Path) -> None:
        gevent.spawn(_exit_when_orphaned, os.getppid())
        try:
            plan = Plan.load(path)
            client = StreamClient(plan.url, plan.timeout_s, os.environ.get(API_KEY_VARIABLE))
            with shown(plan) as page:
                conductor = Conductor(plan, client.send, *_listeners(self.environment, page))
                records, outcome = conductor.play()
            client.close()
            write_requests(path.with_name(RECORDS_NAME), records)
            outcome.save(path.with_name(OUTCOME_NAME))
        finally:
            gevent.spawn(self.environment.runner.quit)


class _ByHand:
    """One user's requests. Its nonce is its own, so no two users share a prompt."""

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
        ids = prompt_ids(self._plan, Segment(arm=0, block=0), index)
        body = request_body(model, ids, self._plan.workload.output_tokens)
        start_ns = perf_counter_ns()
        exchange = self._client.send(body, start_ns)
        if exchange.refused:
            gevent.sleep(_BACKOFF_S)
        return record_of(exchange, Place(model=model, arm=0, block=0, index=index, warmup=False), start_ns)


def _count(environment: Any, record: RequestRecord) -> None:
    """One request is one E2E row entry (and one failure, if it failed); the other rows do not add to the totals."""
    rows = {"TTFT": ttft_s(record), "TPOT": tpot_s(record), "ITL": inter_token_latencies_s(record)}
    if record.ok:
        for row, values_s in rows.items():
            entry = environment.runner.stats.get(f"{row} {record.model}", _METHOD)
            for value_s in values_s:
                entry.log(value_s * 1e3, 0)
    environment.events.request.fire(
        request_type=_METHOD,
        name=f"E2E {record.model}",
        response_time=1e3 * next(iter(e2e_s(record)), (record.done_s or record.scheduled_s) - record.scheduled_s),
        response_length=record.output_tokens or 0,
        exception=None if record.error is None else LoadTestError(record.error),
        context={},
    )


def _listeners(environment: Any, page: ClientPage) -> tuple[Tell, Callable[[RequestRecord], None]]:
    """Who hears of the time and of each record: the runner and Locust, and the page."""

    def tell(done_s: float, total_s: float) -> None:
        _tell(done_s, total_s)
        page.at(done_s, total_s)

    def heard(record: RequestRecord) -> None:
        _count(environment, record)
        page.heard(record)

    return tell, heard


def _tell(done_s: float, total_s: float) -> None:
    sys.stdout.write(progress_line(done_s, total_s))
    sys.stdout.flush()


def _exit_when_orphaned(parent: int) -> None:
    """A runner that was killed outright cannot stop its player: the player then stops itself."""
    while os.getppid() == parent:
        gevent.sleep(_ORPHAN_CHECK_S)
    os._exit(1)
