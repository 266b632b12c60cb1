"""The few shapes of PromQL, by what they say; and that a metric is only asked what its kind has."""

from __future__ import annotations

import re

import pytest

from dashboards.build import BOARDS
from dashboards.latency import goodput_at_least, goodput_at_most, latency, latency_speedup, throughput_gain
from dashboards.metrics import METRICS, OUTPUT_TOKENS, RUNNING, TTFT, metrics_in
from dashboards.promql import (
    WrongKind,
    compared,
    events,
    gauge,
    increase,
    mean,
    or_zero,
    quantile,
    rate,
    share_within,
    total,
)

EXPRESSIONS = [line.expr for board in BOARDS for row in board.rows for panel in row.panels for line in panel.lines]


def test_quantiles_are_taken_of_rates_summed_by_bound() -> None:
    assert quantile(0.99, TTFT, ("variant",), 'a="b"') == (
        "histogram_quantile(0.99, sum by (le, variant) "
        '(rate(vllm:time_to_first_token_seconds_bucket{a="b"}[$__rate_interval])))'
    )


def test_mean_is_over_the_window_and_not_since_the_start() -> None:
    assert mean(TTFT, ("variant",)) == (
        "sum by (variant) (rate(vllm:time_to_first_token_seconds_sum{}[$__rate_interval])) / "
        "sum by (variant) (rate(vllm:time_to_first_token_seconds_count{}[$__rate_interval]))"
    )


def test_share_within_a_limit_finds_the_bound_however_it_is_written() -> None:
    assert 'le=~"$slo_ttft|$slo_ttft.0"' in share_within(TTFT, "$slo_ttft", ("variant",))


def test_total_without_labels_is_one_series() -> None:
    assert total("x{}") == "sum(x{})"
    assert or_zero("x{}") == "(x{}) or vector(0)"


@pytest.mark.parametrize(
    "wrong", [lambda: rate(RUNNING), lambda: increase(TTFT), lambda: gauge(OUTPUT_TOKENS), lambda: events(RUNNING, ())]
)
def test_a_metric_is_only_asked_what_its_kind_has(wrong: object) -> None:
    with pytest.raises(WrongKind, match=r"only a (counter|gauge|histogram) can be asked that"):
        wrong()  # type: ignore[operator]


def test_speedup_is_above_one_for_what_is_faster() -> None:
    """Latency: reference over variant. Tokens: variant over reference."""
    assert latency_speedup(0.5, TTFT).endswith(f"/ ({compared(latency(0.5, TTFT))})")
    assert "scalar(histogram_quantile(0.5, sum by (le) (rate(" in latency_speedup(0.5, TTFT)
    assert throughput_gain().index('variant=~"$variant"') < throughput_gain().index('variant="$reference"')


def test_goodput_has_both_bounds() -> None:
    assert "clamp_min(" in goodput_at_least()
    assert " < " in goodput_at_most()


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_counters_are_only_seen_through_rates(expression: str) -> None:
    for metric in metrics_in(expression):
        if metric.kind == "counter":
            assert f"rate({metric.name}{{" in expression or f"increase({metric.name}{{" in expression
        if metric.kind == "histogram":
            assert f"rate({metric.name}_" in expression
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_windows_are_grafanas_own_or_the_one_that_is_chosen_for_comparing(expression: str) -> None:
    windows = set(re.findall(r"\[([^\]]*)\]", expression))
    assert windows <= {"$__rate_interval"} or windows == {"$window"}
    assert ("scalar(" in expression) <= (windows == {"$window"})


def test_definitions_are_sentences_with_a_thing_in_them() -> None:
    assert all(metric.definition.endswith((".", ")")) and len(metric.definition) > 15 for metric in METRICS.values())
