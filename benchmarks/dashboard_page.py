"""The page of the dashboards' evidence, from its raw data."""

from __future__ import annotations

from typing import Any

from benchmarks.dashboard_answers import without_data
from benchmarks.pages import made_with

SHOULD_FIRE = ("AdmissionRefusals", "ServerErrors", "TargetDown")
"""A worker is killed (its target is down, whoever was inside gets a 502), and a queue is full."""
SHOULD_NOT = ("CrashLoop", "KvCacheFull", "PowerCap", "Preemptions", "SlowWake", "TtftBurnRate")


def render(raw: dict[str, Any]) -> str:
    parts = (_opening(raw), _boards(raw), _alerts(raw), _agreement(raw), _closing(raw))
    return "\n\n".join(parts) + "\n"


def _opening(raw: dict[str, Any]) -> str:
    load = raw["load"]
    return (
        "# Every panel of every board, asked of a real Prometheus\n\n"
        f"A fleet of three variants ({raw['engine']}) and one server behind a URL, watched for {raw['seconds']} s by a "
        f"Prometheus that scraped every 5 s: a load test of {load['clean_s']:g} s per variant at concurrency "
        f"{load['concurrency']} without a fault ({load['clean_requests']} requests, {load['clean_failures']} failed), "
        f"then one of {load['faulty_s']:g} s per variant in which `depth-25`'s worker was killed and twelve clients "
        "crowded a server that takes two. Other work ran on the machine: latencies here are for comparing two ways of "
        "reading them, not for quoting."
    )


def _boards(raw: dict[str, Any]) -> str:
    rows = [
        "| board | panels | queries | with data | series | GPU only, empty |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for board in dict.fromkeys(panel["board"] for panel in raw["panels"]):
        panels = [panel for panel in raw["panels"] if panel["board"] == board]
        lines = [line for panel in panels for line in panel["lines"]]
        empty = sum(not line["series"] for panel in panels if panel["needs"] == "gpu" for line in panel["lines"])
        counts = (len(panels), len(lines), sum(bool(line["series"]) for line in lines))
        series = sum(len(line["series"]) for line in lines)
        rows.append("| " + " | ".join(map(str, (board, *counts, series, empty))) + " |")
    missing = without_data(raw["panels"])
    said = "\n".join(f"* no data: {line}" for line in missing) or "No query that should have data is without."
    return "\n".join(("## Queries", "", *rows, "", said))


def _alerts(raw: dict[str, Any]) -> str:
    fired = {alert["alertname"] for alert in raw["alerts"]}
    rows = ["| alert | for | from, s | to, s |", "| --- | --- | --- | --- |"]
    for alert in raw["alerts"]:
        whom = ", ".join(alert[label] for label in ("variant", "reason") if label in alert) or "the gateway"
        rows.append(f"| {alert['alertname']} | {whom} | {alert['from_s']} | {alert['to_s']} |")
    quiet = ", ".join(name for name in SHOULD_NOT if name not in fired)
    missing = ", ".join(name for name in SHOULD_FIRE if name not in fired) or "none"
    wrong = ", ".join(name for name in SHOULD_NOT if name in fired) or "none"
    said = (
        f"Silent, as they should be: {quiet}. Should have fired and did not: {missing}. Fired and should not: {wrong}."
    )
    return "\n".join(("## Alerts", "", *rows, "", said))


def _agreement(raw: dict[str, Any]) -> str:
    head = "| measure | variant | requests | raw p99, ms | histogram's p99, ms | bucket, ms | within a bucket |"
    rows = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for one in raw["agreement"]:
        low, high = (f"{bound * 1e3:g}" for bound in one["bucket_s"])
        p99_ms = (f"{one[name] * 1e3:.2f}" for name in ("raw_p99_s", "histogram_p99_s"))
        verdict = "yes" if one["agrees"] else "**no**"
        cells = (one["measure"], one["variant"], one["requests"], *p99_ms, f"{low}-{high}", verdict)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    said = (
        "The raw p99 is the load client's, over all requests of the load test without a fault; the histogram's is the "
        "engine's, over the difference of its buckets between both ends, interpolated as Prometheus does."
    )
    return "\n".join(("## p99: records against histograms", "", said, "", *rows))


def _closing(raw: dict[str, Any]) -> str:
    command = "python -m benchmarks.dashboards_evidence --variants DIR"
    asked = f"The queries are those of commit {raw['asked_at_commit'][:12]}, put to what Prometheus kept of the run."
    return f"Measured on {made_with(raw['provenance'])}. {asked} Made by `{command}`."
