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
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import gevent
import locust.stats
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from artifacts.errors import LoadTestError
from artifacts.measures import e2e_s, inter_token_latencies_s, tpot_s, ttft_s
from artifacts.priority import served_first
from artifacts.run import Level, RequestRecord, Workload, write_requests
from loadtest.conductor import Conductor
from loadtest.endpoint import Endpoint
from loadtest.exchange import Place, record_of
from loadtest.plan import Plan, Segment
from loadtest.protocol import API_KEY_VARIABLE, OUTCOME_NAME, RECORDS_NAME, part_name, progress_line
from loadtest.rendezvous import Guest, Host
from loadtest.schedule import planned_request
from loadtest.share import Share
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


@events.init.add_listener
def share_out(environment: Any, **_: Any) -> None:
    """With a plan the workers agree on their starts, and nobody outlives the runner that started them."""
    path, runner = environment.parsed_options.plan, environment.runner
    if not path:
        return
    gevent.spawn(_exit_when_orphaned, os.getppid())
    if isinstance(runner, MasterRunner):
        Host(runner, Plan.load(Path(path)).client_processes)
    elif isinstance(runner, WorkerRunner):
        environment.guest = Guest(runner)


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
        runner, complete = self.environment.runner, False
        guest: Guest | None = getattr(self.environment, "guest", None)
        try:
            plan = Plan.load(path)
            share = guest.share(plan.client_processes) if guest else Share()
            client = StreamClient(plan.url, plan.timeout_s, os.environ.get(API_KEY_VARIABLE), plan.path)
            tell = _tell if share.number == 0 else _tell_nobody
            conductor = Conductor(plan, client.send, tell, lambda record: _count(self.environment, record), share)
            records, outcome = conductor.play()
            client.close()
            write_requests(path.with_name(part_name(RECORDS_NAME, share.number)), records)
            outcome.save(path.with_name(part_name(OUTCOME_NAME, share.number)))
            complete = True
        finally:
            if guest:
                guest.ended(complete)
            else:
                gevent.spawn(runner.quit)


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
        request = planned_request(self._plan, Segment(arm=0, block=0), index)
        start_ns = perf_counter_ns()
        exchange = self._client.send(request.body, start_ns)
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


def _tell(done_s: float, total_s: float) -> None:
    sys.stdout.write(progress_line(done_s, total_s))
    sys.stdout.flush()


def _tell_nobody(done_s: float, total_s: float) -> None:
    """One of several processes tells for all: they are equally far."""


def _exit_when_orphaned(parent: int) -> None:
    """A runner that was killed outright cannot stop its player: the player then stops itself."""
    while os.getppid() == parent:
        gevent.sleep(_ORPHAN_CHECK_S)
    os._exit(1)
