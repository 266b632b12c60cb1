"""The player against a server that is a sleep: who sends when, what counts, what is left out."""

from __future__ import annotations

import itertools
import json
import os
from time import perf_counter_ns
from typing import Any

import gevent
import numpy as np
import pytest

from artifacts.priority import served_first
from artifacts.run import RequestRecord
from loadtest.conductor import Conductor
from loadtest.exchange import Exchange
from loadtest.plan import Outcome, Plan

ANSWER = (
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    b'data: {"choices": [{"text": "a"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": %d}}\n\ndata: [DONE]\n\n'
)


class SleepingServer:
    """Answers every request with one event after `takes_s`; remembers how many were under way at once."""

    def __init__(self, takes_s: float = 0.03, status: bytes = b"200") -> None:
        self.takes_s, self.status = takes_s, status
        self.under_way = self.most = 0
        self.bodies: list[dict[str, Any]] = []

    def send(self, body: bytes, scheduled_ns: int) -> Exchange:
        asked = json.loads(body)
        self.bodies.append(asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        exchange = Exchange(scheduled_ns, sent_ns=perf_counter_ns())
        gevent.sleep(self.takes_s)
        answer = (ANSWER % asked["max_tokens"]).replace(b"200", self.status, 1)
        exchange.reads.append((perf_counter_ns(), answer))
        exchange.done_ns = perf_counter_ns()
        self.under_way -= 1
        return exchange


def played(
    server: SleepingServer, level: dict[str, Any], **changes: Any
) -> tuple[list[RequestRecord], Outcome, list[tuple[float, float]], list[RequestRecord]]:
    values: dict[str, Any] = {
        "url": "http://h:1",
        "arms": ("a",),
        "level": level,
        "workload": {"prompt_tokens": 4, "output_tokens": 8},
        "blocks": 1,
        "window_s": 0.4,
        "lead_in_s": 0.1,
        "timeout_s": 9,
        "nonce": 1,
    }
    told: list[tuple[float, float]] = []
    heard: list[RequestRecord] = []
    conductor = Conductor(
        Plan.parse(values | changes, "the test"), server.send, lambda *step: told.append(step), heard.append
    )
    records, outcome = conductor.play()
    return records, outcome, told, heard


def test_the_closed_loop_keeps_exactly_its_streams_busy() -> None:
    server = SleepingServer()
    records, *_ = played(server, {"concurrency": 5})
    assert server.most == 5
    assert server.under_way == 0
    assert 5 * 5 < len(records) == len(server.bodies) <= 5 * 17  # half a second holds 17 starts of 30 ms each
    assert [r.index for r in records] == list(range(len(records)))


def test_the_streams_of_a_closed_loop_begin_one_after_the_other_over_half_of_the_lead_in() -> None:
    """What begins together is in step; all are under way when the window opens."""
    records, outcome, *_ = played(SleepingServer(), {"concurrency": 2})
    first = sorted(r.scheduled_s for r in records)[:2]  # before either stream has ended its first request, of 30 ms
    assert [start_s - first[0] for start_s in first] == pytest.approx([0.0, 0.025], abs=0.002)
    assert first[-1] < outcome.windows[0].start_s


def test_the_next_request_of_a_stream_counts_from_the_end_of_the_last() -> None:
    records, *_ = played(SleepingServer(), {"concurrency": 1})
    gaps = [b.scheduled_s - (a.done_s or 0) for a, b in itertools.pairwise(records)]
    assert all(0 <= gap < 0.005 for gap in gaps)


def test_requests_of_the_lead_in_are_marked_and_later_ones_start_inside_the_window() -> None:
    records, outcome, *_ = played(SleepingServer(), {"concurrency": 2})
    (window,) = outcome.windows
    assert window.end_s - window.start_s == pytest.approx(0.4)
    assert {r.warmup for r in records} == {True, False}
    assert all(r.warmup == (r.scheduled_s < window.start_s) for r in records)
    assert all(r.scheduled_s < window.end_s for r in records)
    assert max(r.done_s or 0 for r in records) > window.end_s  # what was under way is finished


@pytest.mark.parametrize(
    ("lead_in_s", "lengths"),
    [
        pytest.param(0.1, [2, 4, 6, 8], id="first requests are cut to spread the streams"),
        pytest.param(0.0, [8, 8, 8, 8], id="without a lead-in they are measured and stay whole"),
    ],
)
def test_first_requests(lead_in_s: float, lengths: list[int]) -> None:
    server = SleepingServer()
    played(server, {"concurrency": 4}, lead_in_s=lead_in_s)
    assert [body["max_tokens"] for body in server.bodies[:4]] == lengths
    assert {body["max_tokens"] for body in server.bodies[4:]} == {8}


def test_the_open_loop_sends_on_time_while_a_slow_server_piles_up() -> None:
    server = SleepingServer(takes_s=0.3)
    records, *_ = played(server, {"rate_per_s": 50.0, "arrivals": "constant"})
    assert len(records) == 25
    assert np.diff([r.scheduled_s for r in records]) == pytest.approx(0.02, abs=1e-6)
    assert server.most >= 12
    assert np.median([(r.sent_s or 9) - r.scheduled_s for r in records]) < 0.005


def test_blocks_of_all_arms_get_the_same_poisson_schedule() -> None:
    records, *_ = played(
        SleepingServer(0.001), {"rate_per_s": 60.0, "arrivals": "poisson"}, arms=("a", "b"), blocks=2, window_s=0.2
    )
    starts: dict[tuple[int, int], list[float]] = {}
    for r in records:
        starts.setdefault((r.arm, r.block), []).append(r.scheduled_s)
    offsets = {key: np.diff(times) for key, times in starts.items()}
    assert offsets[0, 0] == pytest.approx(offsets[1, 0], abs=1e-6)
    assert len(offsets[0, 0]) != len(offsets[0, 1]) or offsets[0, 0] != pytest.approx(offsets[0, 1])


def test_a_server_that_refuses_is_not_hammered() -> None:
    server = SleepingServer(takes_s=0.0, status=b"503")
    records, *_ = played(server, {"concurrency": 1})
    assert 5 <= len(records) <= 11  # half a second in steps of 50 ms
    assert {r.failure_kind for r in records} == {"http_503"}


def test_every_record_is_heard_and_progress_ends_at_the_total() -> None:
    records, outcome, told, heard = played(SleepingServer(), {"concurrency": 1}, blocks=2)
    assert heard == records
    assert told[-1] == (pytest.approx(1.0), pytest.approx(1.0))
    assert [w.block for w in outcome.windows] == [0, 1]
    assert 0 < outcome.client_cpu_s < 0.8


def test_the_scheduling_class_is_given_back() -> None:
    before = os.sched_getscheduler(0)
    with served_first() as first:
        taken = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert taken == (os.SCHED_RR if first else before)
        with served_first() as nested:
            assert nested == first
        taken = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert taken == (os.SCHED_RR if first else before)
    assert os.sched_getscheduler(0) == before


def test_a_machine_that_forbids_it_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with served_first() as first:
        assert not first


def test_the_loop_is_watched_while_it_is_measured_and_no_longer() -> None:
    """0.4 s in steps of 10 ms, each late by what the machine does to a sleeper."""
    _, outcome, _, _ = played(SleepingServer(), {"concurrency": 2})
    assert 5 <= len(outcome.loop_lags_s) <= 41
    assert min(outcome.loop_lags_s) >= 0
    assert float(np.median(outcome.loop_lags_s)) < 0.05


def test_who_holds_the_loop_is_seen() -> None:
    """Every request computes for 30 ms without a yield."""
    server = SleepingServer()
    real = server.send

    def blocking(body: bytes, scheduled_ns: int) -> Exchange:
        end_ns = perf_counter_ns() + 30 * 10**6
        while perf_counter_ns() < end_ns:
            continue
        return real(body, scheduled_ns)

    server.send = blocking  # type: ignore[method-assign]
    _, outcome, _, _ = played(server, {"concurrency": 2})
    assert max(outcome.loop_lags_s) >= 0.02
