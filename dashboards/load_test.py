"""Cause and effect in one panel: what the load client offered and saw, beside what the engines say meanwhile."""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import (
    ACHIEVED,
    CLIENT_CPU,
    CLIENT_E2E,
    CLIENT_TOKENS,
    CLIENT_TPOT,
    CLIENT_TTFT,
    E2E,
    FAILED,
    LATENESS,
    OFFERED,
    OUTPUT_TOKENS,
    PROGRESS,
    RUNNING,
    TPOT,
    TTFT,
    WINDOW,
    Metric,
)
from dashboards.panels import Line, Panel, Row
from dashboards.promql import CHOSEN, compared, gauge, largest, or_zero, quantile, rate, total

VARIANT = ("variant",)
SEEN = tuple[tuple[str, Metric, Metric], ...]
BOTH_SIDES: SEEN = (("TTFT", CLIENT_TTFT, TTFT), ("TPOT", CLIENT_TPOT, TPOT), ("E2E", CLIENT_E2E, E2E))


def client_minus_engine(q: float) -> str:
    """TTFT at the client less TTFT in the engine: gateway, network and the client's own delay."""
    return compared(f"{quantile(q, CLIENT_TTFT, VARIANT, CHOSEN)} - {quantile(q, TTFT, VARIANT, CHOSEN)}")


def failed_share() -> str:
    return f"({or_zero(total(rate(FAILED)))}) / clamp_min({total(rate(OFFERED))}, 1e-9)"


def _panel(title: str, about: str, *lines: Line, **settings: object) -> Panel:
    return Panel(title=title, about=about, lines=lines, needs="load test", **settings)  # type: ignore[arg-type]


def _cause() -> Row:
    rates = _panel(
        "Offered and achieved",
        "Requests/s whose time had come, and requests/s answered. In an open loop a gap means that the server cannot "
        "keep up; in a closed one there is none.",
        Line(total(rate(OFFERED, CHOSEN), *VARIANT), "{{variant}} offered"),
        Line(total(rate(ACHIEVED, CHOSEN), *VARIANT), "{{variant}} achieved"),
        unit="reqps",
    )
    windows = _panel(
        "Measured windows",
        "1 while an arm's window is open. Arms take turns, so that what drifts hits all of them.",
        Line(largest(gauge(WINDOW, CHOSEN), *VARIANT), "{{variant}}"),
        bounds=(0, 1),
    )
    progress = _panel(
        "Progress",
        "Share of the planned run.",
        Line(f"max({gauge(PROGRESS)})", "run"),
        unit="percentunit",
        bounds=(0, 1),
    )
    tokens = _panel(
        "Output tokens/s on both sides",
        "Generated and received. The client counts after each segment, so its line is later and smoother.",
        Line(total(rate(OUTPUT_TOKENS, CHOSEN), *VARIANT), "{{variant}} engine"),
        Line(total(rate(CLIENT_TOKENS, CHOSEN), *VARIANT), "{{variant}} client"),
        unit="suffix: tokens/s",
        width=12,
    )
    running = _panel(
        "In the engines' batches",
        "What the offer turns into: requests that decode together.",
        Line(total(gauge(RUNNING, CHOSEN), *VARIANT), "{{variant}}"),
        width=12,
    )
    return Row("Cause", (rates, windows, progress, tokens, running))


def _effect() -> Row:
    def sides(name: str, client: Metric, engine: Metric) -> Panel:
        return _panel(
            f"{name} p99 on both sides",
            f"{name} as the client and as the engine saw it, over $window, because the client counts after each "
            "segment. The client's starts at the scheduled time.",
            Line(compared(quantile(0.99, client, VARIANT, CHOSEN)), "{{variant}} client"),
            Line(compared(quantile(0.99, engine, VARIANT, CHOSEN)), "{{variant}} engine"),
            unit="s",
            width=6,
        )

    between = _panel(
        "TTFT between client and engine",
        "Difference of the medians over $window: gateway, network, the client's own delay. Healthy: milliseconds.",
        Line(client_minus_engine(0.5), "{{variant}}"),
        unit="s",
        width=6,
        bounds=(None, None),
    )
    return Row("Effect", (*(sides(*entry) for entry in BOTH_SIDES), between))


def _gates() -> Row:
    lateness = _panel(
        "Send lateness p99",
        "How late the client itself sent, over $window. The gate: at most 1 ms, or 1 % of TTFT's median; else the run "
        "is not valid.",
        Line(compared(quantile(0.99, LATENESS, VARIANT, CHOSEN)), "{{variant}}"),
        unit="s",
    )
    failures = _panel(
        "Failed requests",
        "Share of those offered. The gate: at most 0.1 %.",
        Line(failed_share(), "failed"),
        unit="percentunit",
    )
    cpu = _panel(
        "Processor time of the client",
        "Share of one core since the page was last drawn. The gate: at most 70 %, else the client is what is measured.",
        Line(gauge(CLIENT_CPU), "{{instance}}"),
        unit="percentunit",
        bounds=(0, 1),
    )
    return Row("May it be believed", (lateness, failures, cpu))


BOARD = Board(
    name="load-test",
    title="Prunebench: load test",
    about="What the load client offered and saw, beside what the engines say of the same seconds.",
    variables=("variant", "window"),
    rows=(_cause(), _effect(), _gates()),
)
