"""The face: what Locust loads, for a planned run (`--plan`, started by the runner) or by hand with its web UI.

By hand, Locust's user count is the concurrency: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --model
dense`. Rows: TTFT, TPOT, inter-token latency (ITL) and E2E, in milliseconds, counted to 0.1 ms. `--stop-on
"ttft_p95>500ms"` ends the test, with exit code 3 or in the web UI without leaving, when that is so. The web UI's
`/metrics` is for Prometheus.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import locust.stats
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from artifacts.errors import ConfigError, LoadTestError
from artifacts.measures import e2e_s, inter_token_latencies_s, tpot_s, ttft_s
from artifacts.priority import served_first
from artifacts.run import RequestRecord, write_requests
from loadtest.by_hand import ByHand, watch_over
from loadtest.client_page import ClientCounts
from loadtest.conductor import Conductor
from loadtest.energy_watch import EnergyWatch
from loadtest.limits import DEFAULT_WINDOW_S, Watch, parse_limits
from loadtest.page_server import KIND, shown
from loadtest.plan import Plan
from loadtest.power_meters import meters_here
from loadtest.protocol import (
    API_KEY_VARIABLE,
    OUTCOME_NAME,
    RECORDS_NAME,
    STOPPED_NAME,
    part_name,
    progress_line,
)
from loadtest.rendezvous import Guest, Host
from loadtest.share import Share
from loadtest.wire import StreamClient

_ORPHAN_CHECK_S = 0.5
_METHOD = "stream"
_BROKEN = "prunebench_broken"
_EXIT_BROKEN = 3

_log = logging.getLogger(__name__)


def bucket_ms(response_time_ms: float) -> float:
    """Locust's histogram key: to 0.1 ms, to 1 ms from a second on (its own rounds to 1 ms and to two figures)."""
    return round(response_time_ms, 1) if response_time_ms < 1000 else float(round(response_time_ms))


locust.stats.bucket_response_time = bucket_ms


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    parser.add_argument("--model", default="", help="served model name; default: the first that the server lists")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="token ids in each prompt")
    parser.add_argument("--output-tokens", type=int, default=64, help="tokens to generate per request")
    parser.add_argument("--stop-on", default="", help="stop the test when it is so, e.g. ttft_p95>500ms,errors>1%%")
    parser.add_argument("--stop-on-window", type=float, default=DEFAULT_WINDOW_S, help="of the last so many seconds")
    parser.add_argument("--plan", default="", include_in_web_ui=False, help="plan file of a planned run")


@events.init.add_listener
def look_at_the_clock(**_: Any) -> None:
    """The loop's clock stands since the imports began; Locust would count their seconds into `--run-time`."""
    gevent.get_hub().loop.update_now()


@events.init.add_listener
def meet(environment: Any, **_: Any) -> None:
    """Workers of a plan agree on their starts, a worker tells the master of a broken limit."""
    path, runner = environment.parsed_options.plan, environment.runner
    if path:
        gevent.spawn(_exit_when_orphaned, os.getppid())
    if isinstance(runner, MasterRunner):
        runner.register_message(_BROKEN, lambda environment, msg, **_: _stop(environment, msg.data))
        if path:
            Host(runner, Plan.load(Path(path)).client_processes)
    elif isinstance(runner, WorkerRunner) and path:
        environment.guest = Guest(runner)


@events.init.add_listener
def show_counts(environment: Any, **_: Any) -> None:
    """A test by hand counts on the web UI's `/metrics`; a master hears no single requests, so it has no such page."""
    environment.counts = ClientCounts()
    if environment.web_ui is not None and not isinstance(environment.runner, MasterRunner):
        _show(environment.web_ui.app, environment.counts)


@events.test_start.add_listener
def begin_by_hand(environment: Any, **_: Any) -> None:
    """The whole test is on the clock; the conductor of a plan sees to its own segments."""
    environment.by_hand, environment.watch = None, Watch(())
    if environment.parsed_options.plan:
        return
    stack = ExitStack()
    stack.enter_context(served_first())
    environment.events.test_stop.add_listener(lambda **_: stack.close())
    try:
        environment.watch = watch_over(environment.parsed_options, lambda said: _stop(environment, said))
    except ConfigError as error:
        _stop(environment, str(error))


class Completions(User):  # type: ignore[misc,unused-ignore]
    """With a plan: plays it, then quits Locust. Without: asks for one completion after the other."""

    def on_start(self) -> None:
        if not self.environment.parsed_options.plan:
            host, options = self.environment.host, self.environment.parsed_options
            self.environment.by_hand = self.environment.by_hand or ByHand(host, options)

    @task
    def complete(self) -> None:
        if plan := self.environment.parsed_options.plan:
            self._play(Path(plan))
            raise StopUser
        record = self.environment.by_hand.request()
        self.environment.watch.hear(perf_counter(), record)
        self.environment.counts.heard(record)
        _count(self.environment, record)

    def _play(self, path: Path) -> None:
        guest: Guest | None = getattr(self.environment, "guest", None)
        complete = False
        try:
            plan = Plan.load(path)
            share = guest.share(plan.client_processes) if guest else Share()
            _play_share(self.environment, plan, path, share)
            complete = True
        finally:
            if guest:
                guest.ended(complete)
            else:
                gevent.spawn(self.environment.runner.quit)


def _play_share(environment: Any, plan: Plan, path: Path, share: Share) -> None:
    client = StreamClient(plan.url, plan.timeout_s, os.environ.get(API_KEY_VARIABLE), plan.path)
    watch = Watch(parse_limits(plan.stop_on), plan.stop_on_window_s)

    def heard(record: RequestRecord) -> None:
        watch.hear(record.done_s or record.scheduled_s, record)
        _count(environment, record)
        page.heard(record)

    def meet(segment: int) -> int:
        """Off the clock, between two segments: the place to end a run that has broken its limits."""
        if said := watch.broken():
            path.with_name(STOPPED_NAME).write_text(said)
            raise LoadTestError(said)
        return share.meet(segment)

    def tell(done_s: float, total_s: float) -> None:
        """One of several processes tells for all: they are equally far."""
        if share.number == 0:
            _tell(done_s, total_s)
        page.at(done_s, total_s)

    part = Share(number=share.number, parts=share.parts, meet=meet)
    with shown(plan, share.number) as page:
        energy = EnergyWatch(meters_here(plan.served_here)) if share.number == 0 else None
        records, outcome = Conductor(plan, client.send, tell, heard, part, energy).play()
    client.close()
    write_requests(path.with_name(part_name(RECORDS_NAME, share.number)), records)
    outcome.save(path.with_name(part_name(OUTCOME_NAME, share.number)))


def _stop(environment: Any, said: str) -> None:
    """A worker leaves it to the master. With a web UI the test ends and the page stays."""
    if isinstance(environment.runner, WorkerRunner):
        environment.runner.send_message(_BROKEN, said)
        return
    _log.error(said)
    environment.process_exit_code = _EXIT_BROKEN
    gevent.spawn(environment.runner.quit if environment.web_ui is None else environment.runner.stop)


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


def _show(app: Any, counts: ClientCounts) -> None:
    @app.route("/metrics")  # type: ignore[untyped-decorator,unused-ignore]
    def metrics() -> tuple[bytes, dict[str, str]]:
        return counts.page(), {"content-type": KIND}


def _tell(done_s: float, total_s: float) -> None:
    sys.stdout.write(progress_line(done_s, total_s))
    sys.stdout.flush()


def _exit_when_orphaned(parent: int) -> None:
    """A runner that was killed outright cannot stop its player: the player then stops itself."""
    while os.getppid() == parent:
        gevent.sleep(_ORPHAN_CHECK_S)
    os._exit(1)
