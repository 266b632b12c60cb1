"""What are the engines doing: batch, cache, queues; and where does a request's time go?"""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import (
    DECODE_TIME,
    FINISHED,
    KV_USAGE,
    OUTPUT_LENGTH,
    PREEMPTIONS,
    PREFILL_TIME,
    PREFIX_HITS,
    PREFIX_QUERIES,
    PROMPT_LENGTH,
    QUEUE_TIME,
    RUNNING,
    SLEEPING,
    STEP_TOKENS,
    WAITING,
    Metric,
)
from dashboards.panels import Line, Panel, Row
from dashboards.promql import CHOSEN, gauge, increase, largest, mean, quantile, rate, total

VARIANT = ("variant",)
STAGES = (("queue", QUEUE_TIME), ("prefill", PREFILL_TIME), ("decode", DECODE_TIME))


def of_variant(metric: Metric) -> str:
    return total(gauge(metric, CHOSEN), *VARIANT)


def prefix_hit_share() -> str:
    """0, not nothing, where no token was looked up: the cache is off for fair comparisons."""
    hits, queries = (total(rate(metric, CHOSEN), *VARIANT) for metric in (PREFIX_HITS, PREFIX_QUERIES))
    return f"({hits}) / clamp_min({queries}, 1)"


def _load() -> Row:
    running = Panel(
        title="Running",
        about="Requests in the batch. Flat at `max_num_seqs` while others wait: the engine is full.",
        lines=(Line(of_variant(RUNNING), "{{variant}}"),),
    )
    waiting = Panel(
        title="Waiting",
        about="Requests that the engine has not scheduled. Healthy: 0. Growing: more is offered than it can do.",
        lines=(Line(of_variant(WAITING), "{{variant}}"),),
    )
    step = Panel(
        title="Tokens per step",
        about="Mean number of tokens in one step: the batch that the weights' reading is shared by.",
        lines=(Line(mean(STEP_TOKENS, VARIANT, CHOSEN), "{{variant}}"),),
        unit="suffix: tokens",
    )
    return Row("Load", (running, waiting, step))


def _memory() -> Row:
    cache = Panel(
        title="KV cache in use",
        about="Share of the blocks in use. Above 95 % the engine preempts; a pruned model may have a larger cache, "
        "unless the fleet fixes its bytes.",
        lines=(Line(largest(gauge(KV_USAGE, CHOSEN), *VARIANT), "{{variant}}"),),
        unit="percentunit",
        bounds=(0, 1),
        width=6,
    )
    preempted = Panel(
        title="Preemptions",
        about="Requests thrown out and computed again, within the window. Healthy: 0.",
        lines=(Line(total(increase(PREEMPTIONS, CHOSEN), *VARIANT), "{{variant}}"),),
        width=6,
    )
    prefix = Panel(
        title="Prefix cache hits",
        about="Share of prompt tokens found in the cache. 0 where it is off, as in comparisons; else it flatters TTFT.",
        lines=(Line(prefix_hit_share(), "{{variant}}"),),
        unit="percentunit",
        bounds=(0, 1),
        width=6,
    )
    sleep = Panel(
        title="Sleep state",
        about="1 for the state the engine is in. A sleeping engine calls itself healthy; the gateway knows better.",
        lines=(Line(f"{gauge(SLEEPING, CHOSEN)} == 1", "{{variant}}: {{sleep_state}}"),),
        kind="states",
        bounds=(None, None),
        width=6,
    )
    return Row("Memory", (cache, preempted, prefix, sleep))


def _stage(name: str, measure: Metric) -> Panel:
    return Panel(
        title=f"Time in {name}",
        about=f"Mean and p99 of the time that requests spend in {name}. The three together are E2E. The buckets begin "
        "at 10 ms: below that only the mean is true.",
        lines=(
            Line(mean(measure, VARIANT, CHOSEN), "{{variant}} mean"),
            Line(quantile(0.99, measure, VARIANT, CHOSEN), "{{variant}} p99"),
        ),
        unit="s",
    )


def _requests() -> Row:
    ends = Panel(
        title="Why requests end",
        about="Requests/s by finish reason: `stop`, `length` (the limit), `abort` (the client left), `error`.",
        lines=(Line(total(rate(FINISHED, CHOSEN), "variant", "finished_reason"), "{{variant}} {{finished_reason}}"),),
        unit="reqps",
    )

    def length(title: str, measure: Metric) -> Panel:
        return Panel(
            title=title,
            about="Mean. Latencies compare only between variants that get, and give, the same lengths. The buckets are "
            "wide (50, 100, 200 ...), so that a percentile would be a guess.",
            lines=(Line(mean(measure, VARIANT, CHOSEN), "{{variant}}"),),
            unit="suffix: tokens",
        )

    return Row("Requests", (ends, length("Prompt length", PROMPT_LENGTH), length("Output length", OUTPUT_LENGTH)))


BOARD = Board(
    name="engine",
    title="Prunebench: engine",
    about="What the engines do, and where a request's time goes.",
    variables=("variant",),
    rows=(_load(), _memory(), Row("Where the time goes", tuple(_stage(*s) for s in STAGES)), _requests()),
)
