"""Is the gateway itself in the way: its delays, refusals, replicas, and its own process?"""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import (
    BODY_BYTES,
    BUILD,
    CPU_SECONDS,
    DURATION,
    EJECTIONS,
    FIRST_BYTE,
    LOST_LINES,
    MAX_FILES,
    OPEN_FILES,
    QUEUE_WAIT,
    REFUSALS,
    REPLICA_IN_FLIGHT,
    REPLICA_UP,
    REQUESTS,
    RESIDENT_BYTES,
    TTFT,
    Metric,
)
from dashboards.panels import Line, Panel, Row
from dashboards.promql import CHOSEN, gauge, increase, quantile, rate, total

VARIANT = ("variant",)
STREAMED = 'stream="true"'
# Workers' pages have the same names; the gateway's own target carries no variant.
OWN = 'variant=""'


def added_ttft(q: float) -> str:
    """First byte at the gateway less first token in the engine: an interpolated difference, good to a bucket."""
    return f"{quantile(q, FIRST_BYTE, VARIANT, STREAMED, CHOSEN)} - {quantile(q, TTFT, VARIANT, CHOSEN)}"


def _times(title: str, about: str, measure: Metric, *matchers: str) -> Panel:
    lines = tuple(
        Line(quantile(q, measure, VARIANT, CHOSEN, *matchers), f"{{{{variant}}}} p{q * 100:g}") for q in (0.5, 0.99)
    )
    return Panel(title=title, about=about, lines=lines, unit="s", width=6)


def _requests() -> Row:
    return Row(
        "Requests",
        (
            Panel(
                title="Requests/s by route",
                about="By the path that was asked; what is not listed is `other`.",
                lines=(Line(total(rate(REQUESTS, CHOSEN), "route"), "{{route}}"),),
                unit="reqps",
            ),
            Panel(
                title="Refusals/s by reason",
                about="Requests that the gateway refused or broke off itself, by the error's code. Healthy: none.",
                lines=(Line(total(rate(REFUSALS), "reason"), "{{reason}}"),),
                unit="reqps",
            ),
            Panel(
                title="Bytes sent/s",
                about="Bodies of answers.",
                lines=(Line(total(rate(BODY_BYTES, CHOSEN), *VARIANT), "{{variant}}"),),
                unit="Bps",
            ),
        ),
    )


def _delays() -> Row:
    added = Panel(
        title="Added to TTFT",
        about="p50 of the streams' first byte here less p50 of TTFT in the engine. Healthy: under a millisecond; both "
        "are interpolated, so trust it to a bucket's width.",
        lines=(Line(added_ttft(0.5), "{{variant}}"),),
        unit="s",
        width=6,
        bounds=(None, None),
    )
    return Row(
        "Delays",
        (
            _times("First byte, streamed", "Request's arrival to the body's first byte.", FIRST_BYTE, STREAMED),
            added,
            _times("Whole request", "Request's arrival to its last byte.", DURATION),
            _times(
                "Waiting for a turn",
                "Of those that had to wait: a variant at its `max_in_flight`, or waking. No data: nobody waited.",
                QUEUE_WAIT,
            ),
        ),
    )


def _replicas() -> Row:
    def of_replica(title: str, about: str, expr: str) -> Panel:
        return Panel(title=title, about=about, lines=(Line(expr, "{{variant}} {{replica}}"),))

    only = "Servers behind URLs only."
    return Row(
        "Servers behind URLs",
        (
            of_replica("Up", f"0: ejected after three failures in a row. {only}", gauge(REPLICA_UP, CHOSEN)),
            of_replica(
                "In flight", f"The least busy healthy one gets the next. {only}", gauge(REPLICA_IN_FLIGHT, CHOSEN)
            ),
            of_replica("Ejections", f"Within the window. Healthy: 0. {only}", increase(EJECTIONS, CHOSEN)),
        ),
    )


def _process() -> Row:
    def own(title: str, about: str, *lines: Line, **settings: object) -> Panel:
        return Panel(title=title, about=about, lines=lines, width=6, **settings)  # type: ignore[arg-type]

    return Row(
        "The process",
        (
            own(
                "Processor",
                "Share of one core. The gateway is one process: near 1 it is the limit.",
                Line(rate(CPU_SECONDS, OWN), "gateway"),
                unit="percentunit",
            ),
            own("Memory", "Level under a level load.", Line(gauge(RESIDENT_BYTES, OWN), "gateway"), unit="bytes"),
            own(
                "Open files",
                "Each stream takes two. Raise `ulimit -n` before they meet.",
                Line(gauge(OPEN_FILES, OWN), "open"),
                Line(gauge(MAX_FILES, OWN), "limit"),
            ),
            own(
                "Access log lines lost",
                "Within the window; the disk is full or slow. Needs `access_log` in the fleet file. Healthy: 0.",
                Line(increase(LOST_LINES), "lost"),
            ),
            Panel(
                title="What is running",
                about="Versions of Prunebench and Python, as labels.",
                lines=(Line(gauge(BUILD), "{{version}}, Python {{python}}"),),
                kind="states",
                width=24,
                bounds=(None, None),
            ),
        ),
    )


BOARD = Board(
    name="gateway",
    title="Prunebench: gateway",
    about="The gateway's own delays, refusals, servers and process.",
    variables=("variant",),
    rows=(_requests(), _delays(), _replicas(), _process()),
)
