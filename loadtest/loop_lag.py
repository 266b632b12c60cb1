"""How late does the client's event loop wake whoever waits? A greenlet that measures its own lateness.

Every read and every send waits for the same loop, so its lateness is in every latency that is measured. It is sampled,
because the requests themselves cannot tell a late loop from a late server.
"""

from __future__ import annotations

from time import perf_counter_ns

import gevent

SAMPLE_S = 0.01


class LagSampler:
    """`watch` runs in a greenlet of its own until it is killed; `lags_s` holds a value for each time it woke."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []

    def watch(self, open_ns: int, close_ns: int) -> None:
        """Samples between two times of `perf_counter_ns`, in ns."""
        gevent.sleep(max(0.0, (open_ns - perf_counter_ns()) / 1e9))
        while (before_ns := perf_counter_ns()) < close_ns:
            gevent.sleep(SAMPLE_S)
            self.lags_s.append(max(0.0, (perf_counter_ns() - before_ns) / 1e9 - SAMPLE_S))
