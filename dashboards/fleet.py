"""Is everything up, does anybody wait, does anybody get errors? The board to open first."""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import ALERTS, IN_FLIGHT, OUTPUT_TOKENS, QUEUED, REQUESTS, RESTARTS, STATE, TPOT, TTFT, UP
from dashboards.panels import Line, Panel, Row
from dashboards.promql import CHOSEN, gauge, how_many, increase, or_zero, quantile, rate, total

JOB = 'job="prunebench"'
READY = 'state="ready"'


def ready_variants() -> str:
    return total(gauge(STATE, READY, CHOSEN))


def variants_not_ready() -> str:
    return or_zero(how_many(f"{gauge(STATE, READY, CHOSEN)} == 0"))


def unreachable_targets() -> str:
    return or_zero(how_many(f"{gauge(UP, JOB)} == 0"))


def firing_alerts() -> str:
    return or_zero(how_many(gauge(ALERTS, 'alertstate="firing"')))


def request_rate(*labels: str) -> str:
    return total(rate(REQUESTS, CHOSEN), *labels)


def error_rate(*labels: str) -> str:
    """499 is the client's own doing, and 4xx its fault."""
    return total(rate(REQUESTS, 'code=~"5.."', CHOSEN), *labels)


def error_share() -> str:
    return f"({or_zero(error_rate())}) / clamp_min({request_rate()}, 1e-9)"


def _now() -> Row:
    def stat(title: str, about: str, expr: str, alarms: tuple[float, float] | None = None) -> Panel:
        return Panel(title=title, about=about, lines=(Line(expr, ""),), kind="stat", width=4, alarms=alarms)

    return Row(
        "Now",
        (
            stat("Ready variants", "Variants that answer requests.", ready_variants()),
            stat("Not ready", "Asleep, starting, stopped or failed. Healthy: 0.", variants_not_ready(), (1, 2)),
            stat("Unreachable targets", "Pages Prometheus could not read. Healthy: 0.", unreachable_targets(), (1, 2)),
            stat("Firing alerts", "See Prometheus' own page for which. Healthy: 0.", firing_alerts(), (1, 3)),
            Panel(
                title="Requests/s",
                about="Requests ended per second, all variants together.",
                lines=(Line(request_rate(), ""),),
                unit="reqps",
                kind="stat",
                width=4,
            ),
            Panel(
                title="Server errors",
                about="Share of requests that ended with a 5xx. Healthy: 0; alarming from 1 %.",
                lines=(Line(error_share(), ""),),
                unit="percentunit",
                kind="stat",
                width=4,
                alarms=(0.001, 0.01),
            ),
        ),
    )


def _traffic() -> Row:
    return Row(
        "Traffic",
        (
            Panel(
                title="Requests/s by variant",
                about="Requests ended per second. `_unknown`: the model was none that is served.",
                lines=(Line(request_rate("variant"), "{{variant}}"),),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Output tokens/s by variant",
                about="Tokens generated per second, counted by the engines.",
                lines=(Line(total(rate(OUTPUT_TOKENS, CHOSEN), "variant"), "{{variant}}"),),
                unit="suffix: tokens/s",
                stacked=True,
            ),
            Panel(
                title="Answers by status",
                about="Requests/s by HTTP status. Healthy: 200 only. 499: the client left; 502: a worker died inside.",
                lines=(Line(request_rate("code"), "{{code}}"),),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="In flight",
                about="Requests that are being answered, by variant.",
                lines=(Line(total(gauge(IN_FLIGHT, CHOSEN), "variant"), "{{variant}}"),),
            ),
            Panel(
                title="Waiting for their turn",
                about="Requests that the gateway holds back. Healthy: 0, but while a sleeping variant wakes.",
                lines=(Line(total(gauge(QUEUED, CHOSEN), "variant"), "{{variant}}"),),
            ),
            Panel(
                title="Restarts",
                about="Starts of a worker after a crash, within the window. Healthy: 0.",
                lines=(Line(total(increase(RESTARTS, CHOSEN), "variant"), "{{variant}}"),),
            ),
        ),
    )


def _latency() -> Row:
    def at(q: float, name: str) -> Panel:
        measure = TTFT if name == "TTFT" else TPOT
        return Panel(
            title=f"{name} p{q * 100:g} by variant",
            about=f"p{q * 100:g} of {name}, as the engines saw it. See the board of dense against variants for more.",
            lines=(Line(quantile(q, measure, ("variant",), CHOSEN), "{{variant}}"),),
            unit="s",
            width=6,
        )

    return Row("Latency", tuple(at(q, name) for name in ("TTFT", "TPOT") for q in (0.5, 0.99)))


def _states() -> Row:
    states = Panel(
        title="State of each variant",
        about="Which state each variant was in, when. Healthy: `ready` throughout, or `asleep` in the swap layout.",
        lines=(Line(f"{gauge(STATE, CHOSEN)} == 1", "{{variant}}: {{state}}"),),
        kind="states",
        width=12,
        bounds=(None, None),
    )
    reachable = Panel(
        title="Targets that answer",
        about="1 for each page that Prometheus could read: the gateway's, and every variant's. A variant that is not "
        "ready has no page.",
        lines=(Line(gauge(UP, JOB, 'variant!=""'), "{{variant}}"), Line(gauge(UP, JOB, 'variant=""'), "gateway")),
        width=12,
        bounds=(0, 1),
    )
    return Row("States", (states, reachable))


BOARD = Board(
    name="fleet",
    title="Prunebench: fleet",
    about="Is everything up, does anybody wait, does anybody get errors?",
    variables=("variant",),
    rows=(_now(), _traffic(), _latency(), _states()),
)
