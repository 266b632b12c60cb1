"""Do several client processes together play what one would, from one start, and is what they saw merged exactly?"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import numpy as np
import pytest
from truth_server import Behaviour, TruthServer

from artifacts.errors import ConfigError, LoadTestError
from artifacts.measures import PERCENTILE_MEASURES
from artifacts.progress import silent
from artifacts.run import RequestRecord, Window, read_requests, write_requests
from loadtest import player
from loadtest.exchange import calendar_ahead_ns
from loadtest.gates import Evidence, send_lateness_p99_s
from loadtest.plan import Outcome, Plan
from loadtest.protocol import OUTCOME_NAME, PLAN_NAME, RECORDS_NAME, part_name
from loadtest.rendezvous import Guest, Host
from loadtest.share import Share, soon

Serve = Callable[..., TruthServer]
MakeRecord = Callable[..., RequestRecord]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_shares_are_disjoint_and_together_everything(parts: int, count: int) -> None:
    dealt = [list(Share(number=k, parts=parts).indices(count)) for k in range(parts)]
    assert sorted(itertools.chain(*dealt)) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(("number", "parts", "first"), [(0, 1, [0, 1, 2]), (1, 2, [1, 3, 5]), (2, 5, [2, 7, 12])])
def test_a_closed_loops_share_never_ends(number: int, parts: int, first: list[int]) -> None:
    assert list(itertools.islice(Share(number=number, parts=parts).indices(), 3)) == first


def test_who_plays_alone_starts_soon() -> None:
    before_ns = time.perf_counter_ns()
    assert 0 < soon(0) - before_ns < 10**9


class Wires:
    """A master and its workers without Locust: messages are delivered at once."""

    def __init__(self, parts: int) -> None:
        self.quits = 0
        self.clients = {k: SimpleNamespace(state="running") for k in range(parts)}
        self.listeners: dict[str, list[Any]] = {}
        self.host = Host(self._runner(None), parts)
        self.guests = [Guest(self._runner(k)) for k in range(parts)]

    def _runner(self, index: int | None) -> Any:
        def send(kind: str, data: Any) -> None:
            for listener in self.listeners[kind]:
                listener(None, SimpleNamespace(data=data))

        def quit_all() -> None:
            self.quits += 1

        def register(kind: str, listener: Any) -> None:
            self.listeners.setdefault(kind, []).append(listener)

        return SimpleNamespace(
            worker_index=index, clients=self.clients, send_message=send, register_message=register, quit=quit_all
        )


def test_all_start_each_segment_at_one_time_and_only_when_all_are_ready() -> None:
    wires = Wires(3)
    shares = [guest.share(3) for guest in wires.guests]
    assert [share.number for share in shares] == [0, 1, 2]
    for segment in range(2):
        early = [gevent.spawn(share.meet, segment) for share in shares[:2]]
        gevent.sleep(0)
        assert not any(greenlet.ready() for greenlet in early)
        starts_ns = [shares[2].meet(segment), *(greenlet.get(timeout=5) for greenlet in early)]
        assert max(starts_ns) - min(starts_ns) < 1_000_000  # one calendar time; each measures its own clock's offset
        assert 0 < min(starts_ns) - time.perf_counter_ns() < 10**9


@pytest.mark.parametrize(
    ("ends", "quits"),
    [
        pytest.param([True], 0, id="one is still playing"),
        pytest.param([True, True], 1, id="all have ended"),
        pytest.param([False], 1, id="one has failed"),
    ],
)
def test_the_run_ends_with_the_last_or_with_the_first_failure(ends: list[bool], quits: int) -> None:
    wires = Wires(2)
    for guest, complete in zip(wires.guests, ends, strict=False):
        guest.ended(complete)
    gevent.sleep(0)
    assert wires.quits == quits


@pytest.mark.parametrize(("state", "quits"), [("missing", 1), ("running", 0)])
def test_a_worker_that_is_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch, state: str, quits: int) -> None:
    monkeypatch.setattr("loadtest.rendezvous._CHECK_S", 0.001)
    wires = Wires(2)
    gevent.sleep(0.01)
    wires.clients[1].state = state
    gevent.sleep(0.1)
    assert wires.quits == quits


def test_a_common_time_is_one_moment_on_this_machine() -> None:
    assert abs(time.time_ns() - calendar_ahead_ns() - time.perf_counter_ns()) < 5_000_000


def plan(url: str, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "url": url,
        "arms": ["a", "b"],
        "level": {"arrivals": {"kind": "poisson", "rate_per_s": 60}},
        "workload": {"prompt_tokens": 8, "output_tokens": 6},
        "blocks": 2,
        "window_s": 0.7,
        "lead_in_s": 0.2,
        "timeout_s": 10,
        "nonce": 1,
    }
    return Plan.parse(values | changes, "the test")


Played = tuple[list[RequestRecord], Outcome]


@pytest.fixture(scope="module")
def one_and_two(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Played, Played, Path, TruthServer]:
    """The same plan by one process and by two."""
    server = serve(models={"a": Behaviour(), "b": Behaviour()})
    played = []
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp("share")
        played.append(player.play(plan(server.url, client_processes=processes), folder, None, "load", silent))
    return played[0], played[1], folder, server


def offsets_s(played: Played) -> dict[tuple[int, int, int], float]:
    """When each request was due, after its window's start."""
    starts = {(w.arm, w.block): w.start_s for w in played[1].windows}
    return {(r.arm, r.block, r.index): r.scheduled_s - starts[r.arm, r.block] for r in played[0]}


def test_two_workers_give_the_schedule_of_one(one_and_two: tuple[Played, Played, Path, TruthServer]) -> None:
    alone, together = offsets_s(one_and_two[0]), offsets_s(one_and_two[1])
    assert list(together) == list(alone)  # in one order, too
    assert list(together.values()) == pytest.approx(list(alone.values()), abs=1e-4)
    assert len(alone) > 150


def test_two_workers_ask_for_the_prompts_of_one(one_and_two: tuple[Played, Played, Path, TruthServer]) -> None:
    """The nonce of this plan is given, so even the salts are equal: every body was sent exactly twice."""
    sent = [(body["model"], tuple(body["prompt"]), body["max_tokens"]) for body in one_and_two[3].bodies]
    assert len(sent) == 2 * len(set(sent))


def test_merged_percentiles_are_those_of_all_records(one_and_two: tuple[Played, Played, Path, TruthServer]) -> None:
    _, (records, _), folder, _ = one_and_two
    parts = [read_requests(folder / part_name(RECORDS_NAME, k)) for k in range(2)]
    assert [len(part) > 50 for part in parts] == [True, True]
    assert [{r.index % 2 for r in part} for part in parts] == [{0}, {1}]
    for measure in PERCENTILE_MEASURES.values():
        pooled = [v for part in parts for r in part for v in measure.per_request(r)]
        merged = [v for r in records for v in measure.per_request(r)]
        assert np.percentile(merged, measure.percentile) == np.percentile(pooled, measure.percentile)


def test_nothing_failed_and_all_were_in_time(one_and_two: tuple[Played, Played, Path, TruthServer]) -> None:
    for records, _ in one_and_two[:2]:
        assert [r.error for r in records if not r.ok] == []
        assert np.median([(r.sent_s or 9) - r.scheduled_s for r in records]) < 0.005


def test_the_outcome_is_the_worst_ones(tmp_path: Path, make_record: MakeRecord) -> None:
    windows = (Window(arm=0, block=0, start_s=0, end_s=1),)
    for k, (cpu_s, first, lags_s) in enumerate([(0.25, True, (0.001,)), (0.75, False, (0.002,))]):
        outcome = Outcome(windows=windows, client_cpu_s=cpu_s, served_first=first, loop_lags_s=lags_s)
        outcome.save(tmp_path / part_name(OUTCOME_NAME, k))
        write_requests(tmp_path / part_name(RECORDS_NAME, k), [make_record(index=i) for i in (k, k + 2)])
    records, outcome = player.merged(plan("http://h:1", client_processes=2, arms=["a"], blocks=1), tmp_path)
    assert [r.index for r in records] == [0, 1, 2, 3]
    assert (outcome.client_cpu_s, outcome.served_first, outcome.loop_lags_s) == (0.75, False, (0.002,))


@pytest.mark.parametrize(("processes", "late_s"), [(1, 0.001), (2, 0.1)])
def test_one_late_process_is_not_hidden_by_others_that_are_in_time(
    make_record: MakeRecord, processes: int, late_s: float
) -> None:
    """Two of 202 requests are late: fewer than the percentile of all, more than that of the process that was."""
    records = [make_record(index=i, sent_s=0.1 if i in (1, 3) else 0.001) for i in range(202)]
    workload = plan("http://h:1").workload
    evidence = Evidence(
        records=records, windows=(), workload=workload, client_cpu_s=0, counters={}, client_processes=processes
    )
    assert send_lateness_p99_s(evidence) == pytest.approx(late_s)


def test_a_killed_worker_is_an_error_not_a_hang(serve: Serve, tmp_path: Path) -> None:
    server = serve(models={"a": Behaviour(), "b": Behaviour()})
    asked = plan(server.url, client_processes=2, window_s=60)

    def kill_a_worker() -> None:
        while len(server.bodies) < 10:
            time.sleep(0.01)
        os.kill(workers_of(tmp_path)[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill_a_worker, daemon=True)
    thread.start()
    with pytest.raises(LoadTestError, match="ended without a result"):
        player.play(asked, tmp_path, None, "load", silent)
    thread.join()


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names this folder's plan, and whose parent's does as well."""
    command = ["pgrep", "-f", str(folder / PLAN_NAME)]
    found = {int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in found}
    assert sys.platform == "linux"
    return [pid for pid, parent in sorted(parents.items()) if parent in found]


def test_a_run_ends_after_the_block_that_broke_a_limit(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started from a folder that holds another package of the load test's name."""
    (tmp_path / "loadtest").mkdir()
    (tmp_path / "loadtest" / "__init__.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    server = serve(models={"a": Behaviour(ttft_s=0.03), "b": Behaviour()})
    asked = plan(server.url, stop_on="ttft_p50>10ms,errors>50%", blocks=50)
    with pytest.raises(LoadTestError, match=r"Stopped by --stop-on ttft_p50>10ms: over the last 30 s it was [34]\d"):
        player.play(asked, tmp_path, None, "load", silent)
    assert {body["model"] for body in server.bodies} == {"a"}


def test_limits_are_checked_before_the_run() -> None:
    with pytest.raises(ConfigError, match="is no limit"):
        plan("http://h:1", stop_on="speed>9")
