"""Every name in a panel, a rule or an alert is one that somebody counts: captured pages are the witness."""

from __future__ import annotations

import re

import pytest
from captured import SOURCES, kinds, label_values, page, samples
from prometheus_client import CollectorRegistry, generate_latest

from dashboards.build import BOARDS
from dashboards.checking import PROMETHEUS
from dashboards.metrics import METRICS, RECORDED, Metric, metrics_in, named_in
from dashboards.scraping import RULE_FILES
from server.engines import HISTOGRAM_BUCKETS_S
from server.gpu_metrics import GpuCollector
from server.lifecycle import STATES
from tests.nvml import FakeNvml

COUNTED = [metric for metric in METRICS.values() if metric.source != "prometheus"]
RULES = "\n".join((PROMETHEUS / name).read_text(encoding="utf-8") for name in RULE_FILES)
EXPRESSIONS = [line.expr for board in BOARDS for row in board.rows for panel in row.panels for line in panel.lines]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml()))
    return {"machine": generate_latest(registry).decode(), **{source: page(source) for source in SOURCES}}


@pytest.mark.parametrize("metric", COUNTED, ids=lambda metric: metric.name)
def test_name_and_kind_are_as_captured(metric: Metric, pages: dict[str, str]) -> None:
    text = pages[metric.source]
    assert kinds(text).get(metric.name) == metric.kind
    if metric.name in {"prunebench_loadtest_failed_requests_total"}:
        return  # no request of the captured run failed
    wanted = {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    assert (wanted if metric.kind == "histogram" else {metric.name}) <= samples(text)


def test_a_name_that_nobody_counts_would_be_seen(pages: dict[str, str]) -> None:
    assert all("vllm:gpu_cache_usage_perc" not in kinds(text) for text in pages.values())
    with pytest.raises(KeyError):
        metrics_in("vllm:gpu_cache_usage_perc{}")


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_panels_use_the_table_only(expression: str) -> None:
    assert metrics_in(expression)
    outside = re.sub(r'"[^"]*"', "", expression)
    words = set(re.findall(r"\b(?:vllm:|prunebench_|process_)\w+", outside))
    assert words <= set(named_in(expression))  # every name stands before braces, so none escapes the table


def test_rules_and_alerts_use_the_table_and_what_they_record() -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES))
    assert recorded
    assert all(RECORDED.match(name) for name in recorded)
    expressions = re.sub(r"(summary|record|labels|annotations): .*|#.*", "", RULES)
    used = set(named_in(expressions))
    assert {name for name in used if RECORDED.match(name)} <= recorded
    assert {metric.name for name in used for metric in metrics_in(f"{name}{{}}")} <= set(METRICS)
    assert len(used) > 8


def test_every_metric_of_the_table_is_shown_somewhere() -> None:
    shown = {metric.name for expression in (*EXPRESSIONS, "ALERTS{}") for metric in metrics_in(expression)}
    assert set(METRICS) - shown == set()


def test_labels_that_panels_choose_by_are_there(pages: dict[str, str]) -> None:
    gateway, engine = pages["gateway"], pages["engine"]
    assert label_values(gateway, "prunebench_variant_state", "state") == set(STATES)
    assert "true" in label_values(gateway, "prunebench_time_to_first_byte_seconds_bucket", "stream")
    assert "200" in label_values(gateway, "prunebench_requests_total", "code")
    assert {"length", "stop"} <= label_values(engine, "vllm:request_success_total", "finished_reason")
    assert "awake" in label_values(engine, "vllm:engine_sleep_state", "sleep_state")
    assert {"power_cap"} <= label_values(pages["machine"], "prunebench_gpu_throttled", "reason")


def test_limits_that_a_person_may_choose_are_bounds_of_the_engines_buckets(pages: dict[str, str]) -> None:
    from dashboards.boards import TPOT_BOUNDS_S, TTFT_BOUNDS_S

    families = (("time_to_first_token", TTFT_BOUNDS_S), ("inter_token_latency", TPOT_BOUNDS_S))
    for family, chosen in families:
        assert {float(bound) for bound in chosen} <= set(HISTOGRAM_BUCKETS_S[family])
    written = label_values(pages["engine"], "vllm:time_to_first_token_seconds_bucket", "le")
    assert all({bound, f"{bound}.0"} & written for bound in TTFT_BOUNDS_S)
    written = label_values(pages["engine"], "vllm:request_time_per_output_token_seconds_bucket", "le")
    assert all({bound, f"{bound}.0"} & written for bound in TPOT_BOUNDS_S)


def test_the_alert_on_slow_first_tokens_reads_a_bucket_that_exists(pages: dict[str, str]) -> None:
    bounds = set(re.findall(r'le="([^"]+)"', RULES))
    assert bounds == {"0.5"}
    assert bounds <= label_values(pages["engine"], "vllm:time_to_first_token_seconds_bucket", "le")


def test_refusals_that_alerts_name_are_the_gateways_own() -> None:
    from server import faults

    source = (PROMETHEUS.parents[1] / "server" / "faults.py").read_text(encoding="utf-8")
    assert faults.__file__ is not None
    (reasons,) = re.findall(r'reason=~"([^"]+)"', RULES)
    assert all(f'"{reason}"' in source for reason in reasons.split("|"))
