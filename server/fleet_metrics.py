"""What do the variants and their servers say of themselves at the moment of a scrape?

Read from the registry then, not counted along: a gauge that is kept beside the truth goes wrong sooner or later.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.lifecycle import STATES
from server.registry import Registry


class FleetCollector(Collector):
    """State, requests in flight and restarts, read from the registry at the moment of the scrape."""

    def __init__(self, variants: Registry) -> None:
        self._variants = variants

    def collect(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "prunebench_requests_in_flight", "Requests that the variant is answering now.", labels=("variant",)
        )
        state = GaugeMetricFamily(
            "prunebench_variant_state", "1 for the state the variant is in.", labels=("variant", "state")
        )
        restarts = CounterMetricFamily(
            "prunebench_worker_restarts", "Starts of the variant's worker after a crash.", labels=("variant",)
        )
        queued = GaugeMetricFamily(
            "prunebench_requests_queued", "Requests that wait for their turn.", labels=("variant",)
        )
        for variant in self._variants:
            in_flight.add_metric((variant.name,), variant.gate.in_flight)
            queued.add_metric((variant.name,), variant.gate.queued)
            restarts.add_metric((variant.name,), variant.lifecycle.restarts)
            for name in STATES:
                state.add_metric((variant.name, name), variant.lifecycle.state == name)
        yield from (in_flight, queued, state, restarts, *self._replicas())

    def _replicas(self) -> Iterator[Metric]:
        """Of servers behind URLs; a worker of our own is its variant."""
        labels = ("variant", "replica")
        up = GaugeMetricFamily("prunebench_replica_up", "1 for a server that gets requests.", labels=labels)
        in_flight = GaugeMetricFamily(
            "prunebench_replica_requests_in_flight", "Requests that the server is answering now.", labels=labels
        )
        ejections = CounterMetricFamily(
            "prunebench_replica_ejections", "Times that the server was found unfit.", labels=labels
        )
        for variant in self._variants:
            for replica in variant.replicas if variant.entry.urls else ():
                up.add_metric((variant.name, replica.url), not replica.ejected)
                in_flight.add_metric((variant.name, replica.url), replica.in_flight)
                ejections.add_metric((variant.name, replica.url), replica.health.ejections)
        yield from (up, in_flight, ejections)
