"""How do Locust's workers start each segment of a plan together, and end the run together?

By messages through their master. A worker says when it is ready for a segment; when all are, the master names a time
on the calendar clock, which each turns into its own. On one machine that is one clock; on several it is as good as
their clocks' agreement, which the run cannot check: keep them within a millisecond (NTP on one network, or PTP).
"""

from __future__ import annotations

import logging
from collections import Counter
from time import perf_counter_ns, time_ns
from typing import Any

import gevent
from gevent.event import AsyncResult

from loadtest.exchange import calendar_ahead_ns
from loadtest.share import Share

_READY, _START, _ENDED = "prunebench_ready", "prunebench_start", "prunebench_ended"
_SETTLE_NS = 200 * 10**6  # for the message to reach everybody
_CHECK_S = 0.5
_PATIENCE = 10  # checks: Locust calls a worker missing that only had no time for a heartbeat

_log = logging.getLogger(__name__)


class Host:
    """The master's side. Quits Locust when all parts have ended, one has failed, or one is gone."""

    def __init__(self, runner: Any, parts: int) -> None:
        self._runner, self._parts = runner, parts
        self._ready: Counter[int] = Counter()
        self._ended = 0
        runner.register_message(_READY, self._on_ready)
        runner.register_message(_ENDED, self._on_ended)
        gevent.spawn(self._watch)

    def _on_ready(self, environment: Any, msg: Any, **_: Any) -> None:
        segment = int(msg.data["segment"])
        self._ready[segment] += 1
        if self._ready[segment] == self._parts:
            self._runner.send_message(_START, {"segment": segment, "calendar_ns": time_ns() + _SETTLE_NS})

    def _on_ended(self, environment: Any, msg: Any, **_: Any) -> None:
        self._ended += 1
        if self._ended == self._parts or not msg.data["complete"]:
            gevent.spawn(self._runner.quit)

    def _watch(self) -> None:
        """A worker that was killed says nothing; the others would wait for it for ever."""
        while self._there() < self._parts:
            gevent.sleep(_CHECK_S)
        patience = _PATIENCE
        while patience:
            gevent.sleep(_CHECK_S)
            patience = patience - 1 if self._there() < self._parts - self._ended else _PATIENCE
        _log.error("A client process is gone: %d of %d are left.", self._there(), self._parts)
        self._runner.quit()

    def _there(self) -> int:
        return sum(client.state not in ("missing", "stopped") for client in self._runner.clients.values())


class Guest:
    """A worker's side: one part of the plan."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._starts: dict[int, AsyncResult] = {}
        runner.register_message(_START, self._on_start)

    def share(self, parts: int) -> Share:
        return Share(number=self._runner.worker_index, parts=parts, meet=self._meet)

    def ended(self, complete: bool) -> None:
        self._runner.send_message(_ENDED, {"complete": complete})

    def _meet(self, segment: int) -> int:
        self._starts[segment] = AsyncResult()
        self._runner.send_message(_READY, {"segment": segment})
        calendar_ns: int = self._starts[segment].get()
        start_ns = calendar_ns - calendar_ahead_ns()
        if start_ns < perf_counter_ns():
            _log.error("The common start came too late by %.3f s.", (perf_counter_ns() - start_ns) / 1e9)
        return start_ns

    def _on_start(self, environment: Any, msg: Any, **_: Any) -> None:
        self._starts[int(msg.data["segment"])].set(msg.data["calendar_ns"])
