"""Which few shapes of PromQL are enough? Functions from metrics to expressions, each right for its metric's kind.

A counter is only seen through `rate`, over `$__rate_interval`, which Grafana keeps above four scrapes; a histogram only
through the rate of its buckets, summed before the quantile is taken. Lifetime averages of `_sum / _count` do not occur.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.metrics import Metric

INTERVAL = "$__rate_interval"
COMPARISON = "$window"
CHOSEN = 'variant=~"$variant"'
REFERENCE = 'variant="$reference"'


@dataclass(frozen=True, slots=True)
class WrongKind(Exception):
    """A metric was asked for what its kind does not have: a fault of the query, not of a user."""

    metric: Metric
    wanted: str

    def __str__(self) -> str:
        return f"{self.metric.name} is a {self.metric.kind}; only a {self.wanted} can be asked that."


def gauge(metric: Metric, *matchers: str) -> str:
    return _selected(_only("gauge", metric), matchers)


def rate(metric: Metric, *matchers: str) -> str:
    """Per second."""
    return f"rate({_selected(_only('counter', metric), matchers)}[{INTERVAL}])"


def increase(metric: Metric, *matchers: str) -> str:
    return f"increase({_selected(_only('counter', metric), matchers)}[{INTERVAL}])"


def total(expression: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def largest(expression: str, *labels: str) -> str:
    return f"max by ({', '.join(labels)}) ({expression})"


def quantile(q: float, histogram: Metric, labels: tuple[str, ...], *matchers: str) -> str:
    """The q-quantile, interpolated within the bucket that holds it."""
    return f"histogram_quantile({q:g}, {total(_part(histogram, 'bucket', matchers), 'le', *labels)})"


def mean(histogram: Metric, labels: tuple[str, ...], *matchers: str) -> str:
    """Over the window, not since the start."""
    return f"{total(_part(histogram, 'sum', matchers), *labels)} / {events(histogram, labels, *matchers)}"


def events(histogram: Metric, labels: tuple[str, ...], *matchers: str) -> str:
    """Observations per second."""
    return total(_part(histogram, "count", matchers), *labels)


def share_within(histogram: Metric, bound: str, labels: tuple[str, ...], *matchers: str) -> str:
    """Share of the observations up to `bound`, which must be one of the buckets' own bounds, in seconds."""
    inside = total(_part(histogram, "bucket", (*matchers, f'le=~"{bound}|{bound}.0"')), *labels)
    return f"{inside} / {events(histogram, labels, *matchers)}"


def compared(expression: str) -> str:
    """Over `$window` instead: variants that a load test asks in turn have no traffic in common in less."""
    return expression.replace(INTERVAL, COMPARISON)


def or_zero(expression: str) -> str:
    """For sums over series that need not exist yet."""
    return f"({expression}) or vector(0)"


def how_many(expression: str, *labels: str) -> str:
    return f"count by ({', '.join(labels)}) ({expression})" if labels else f"count({expression})"


def speedup(latency: str, of_reference: str) -> str:
    """Above 1: faster than the reference."""
    return f"scalar({of_reference}) / ({latency})"


def gain(throughput: str, of_reference: str) -> str:
    """Above 1: more than the reference."""
    return f"({throughput}) / scalar({of_reference})"


def _part(histogram: Metric, suffix: str, matchers: tuple[str, ...]) -> str:
    name = f"{_only('histogram', histogram).name}_{suffix}"
    return f"rate({name}{{{', '.join(matchers)}}}[{INTERVAL}])"


def _selected(metric: Metric, matchers: tuple[str, ...]) -> str:
    return f"{metric.name}{{{', '.join(matchers)}}}"


def _only(kind: str, metric: Metric) -> Metric:
    if metric.kind != kind:
        raise WrongKind(metric, kind)
    return metric
