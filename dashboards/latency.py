"""How much faster do pruned variants serve than the dense model, by every latency, at three percentiles?

A quantile of a histogram is interpolated within a bucket, so a ratio of two is for looking; claims come from the load
test's raw records.
"""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import E2E, ITL, OUTPUT_TOKENS, PROMPT_TOKENS, TPOT, TTFT, Metric
from dashboards.panels import Line, Panel, Row
from dashboards.promql import CHOSEN, REFERENCE, compared, events, gain, quantile, rate, share_within, speedup, total

QUANTILES = (0.5, 0.95, 0.99)
LATENCIES: tuple[tuple[str, str, Metric], ...] = (
    ("TTFT", "time to first token", TTFT),
    ("TPOT", "time per output token after the first", TPOT),
    ("ITL", "inter-token latency", ITL),
    ("E2E", "end-to-end latency", E2E),
)


def latency(q: float, measure: Metric) -> str:
    """By variant, of those chosen."""
    return quantile(q, measure, ("variant",), CHOSEN)


def latency_speedup(q: float, measure: Metric) -> str:
    """Reference over variant."""
    return compared(speedup(latency(q, measure), quantile(q, measure, (), REFERENCE)))


def tokens(metric: Metric) -> str:
    """Tokens per second, by variant."""
    return total(rate(metric, CHOSEN), "variant")


def throughput_gain() -> str:
    return compared(gain(tokens(OUTPUT_TOKENS), total(rate(OUTPUT_TOKENS, REFERENCE))))


def within_ttft() -> str:
    return share_within(TTFT, "$slo_ttft", ("variant",), CHOSEN)


def within_tpot() -> str:
    return share_within(TPOT, "$slo_tpot", ("variant",), CHOSEN)


def requests() -> str:
    return events(E2E, ("variant",), CHOSEN)


def goodput_at_least() -> str:
    """If no request misses both limits: what is sure to be good."""
    return f"({requests()}) * clamp_min(({within_ttft()}) + ({within_tpot()}) - 1, 0)"


def goodput_at_most() -> str:
    """If those that miss one limit miss the other as well: the smaller share of the two."""
    ttft, tpot = within_ttft(), within_tpot()
    return f"({requests()}) * (({ttft}) < ({tpot}) or ({tpot}))"


def _row(name: str, words: str, measure: Metric) -> Row:
    at = [
        Panel(
            title=f"{name} p{q * 100:g}",
            about=f"p{q * 100:g} of the {words}, as the engine saw it. Lower is better.",
            lines=(Line(latency(q, measure), "{{variant}}"),),
            unit="s",
            width=6,
        )
        for q in QUANTILES
    ]
    ratio = Panel(
        title=f"{name}: times faster than $reference",
        about=f"p50 and p99 of {name} of the reference over the variant's, both over $window: above 1 is faster. "
        "Compare variants that answer like traffic, at the same time or in turns much shorter than the window.",
        lines=tuple(Line(latency_speedup(q, measure), f"{{{{variant}}}} p{q * 100:g}") for q in (0.5, 0.99)),
        unit="suffix:×",
        width=6,
    )
    return Row(name, (*at, ratio))


def _throughput() -> Row:
    output = Panel(
        title="Output tokens/s",
        about="Tokens generated per second. In a closed loop more is faster; in an open one it only follows the offer.",
        lines=(Line(tokens(OUTPUT_TOKENS), "{{variant}}"),),
        unit="suffix: tokens/s",
        width=6,
    )
    prompt = Panel(
        title="Prompt tokens/s",
        about="Tokens prefilled per second.",
        lines=(Line(tokens(PROMPT_TOKENS), "{{variant}}"),),
        unit="suffix: tokens/s",
        width=6,
    )
    ratio = Panel(
        title="Output tokens/s over $reference",
        about="Above 1: more tokens than the reference over $window. It means something in a closed loop only, where "
        "all get the same time.",
        lines=(Line(throughput_gain(), "{{variant}}"),),
        unit="suffix:×",
        width=6,
    )
    ended = Panel(
        title="Requests/s",
        about="Requests that the engine finished, per second.",
        lines=(Line(requests(), "{{variant}}"),),
        unit="reqps",
        width=6,
    )
    return Row("Throughput", (output, prompt, ratio, ended))


def _goodput() -> Row:
    met = Panel(
        title="Requests within the SLO's limits",
        about="Share of requests with TTFT up to $slo_ttft s, and with TPOT up to $slo_tpot s. Healthy: above 0.99.",
        lines=(Line(within_ttft(), "{{variant}} TTFT"), Line(within_tpot(), "{{variant}} TPOT")),
        unit="percentunit",
        width=12,
        bounds=(0, 1),
    )
    good = Panel(
        title="Goodput under the SLO",
        about="Requests/s that meet both limits. Two histograms do not tell which request missed which limit, so "
        "goodput is known to lie between `at least` (nobody missed both) and `at most` (they missed both together).",
        lines=(Line(goodput_at_least(), "{{variant}} at least"), Line(goodput_at_most(), "{{variant}} at most")),
        unit="reqps",
        width=12,
    )
    return Row("Goodput", (good, met))


BOARD = Board(
    name="variants",
    title="Prunebench: dense against variants",
    about="Every latency of every variant beside the dense model's. Claims come from load tests.",
    variables=("variant", "reference", "window", "slo_ttft", "slo_tpot"),
    rows=(_throughput(), _goodput(), *(_row(*entry) for entry in LATENCIES)),
)
