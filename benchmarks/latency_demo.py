"""How additive is vLLM in half layers? Measures the demo model's latency table and predicts uneven shapes from it.

`python benchmarks/latency_demo.py` writes latency_demo_cpu_202611.json, which is a table that compress reads, and the
page made from it; with `--render-only` just the page. An interrupted run goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.latency import DecodeShape, HalfUnit, LatencyTable
from benchmarks.pages import draw_page
from prunebench.console import show_progress
from prunebench.timing import LatencyRequest, measure_latency

FOLDER = Path(__file__).resolve().parent
STEM = FOLDER / "latency_demo_cpu_202611"
REQUEST = LatencyRequest(
    model=str(FOLDER.parent / "prunebench" / "demo_model"),
    out=STEM.with_suffix(".json"),
    batch=8,
    context_tokens=512,
    repeats=15,
    checks=3,
)
UNITS: dict[HalfUnit, str] = {"kv": "KV groups", "ffn": "FFN channels"}

PAGE = """# The demo model's latency table, and how additive the engine is

*Question: can the decode step of a model whose layers differ be told from engines whose layers are alike?*
{answer}

`prunebench latency` on the embedded demo model: {batch} sequences decode together, {context} tokens in front of each,
drawn weights, {engine} on {hardware}. Each engine is a process of its own; {repeats} repeats of 64 steps, the median
step of each, of which the smallest counts. The dense engine's step was {drift:+.1%} at the end of the run against its
beginning. Outside half layers a step takes {fixed_ms:.2f} ms (embedding, head, scheduler).

## Half layers

| kind | width | us in a step | us as measured |
| --- | ---: | ---: | ---: |
{entries}

The second column of times is before the isotonic regression, which moved an entry by {pooled_us:.0f} us at most.

## Shapes that the table does not know

| attention, KV groups by layer | FFN, channels by layer | measured, ms | spread | predicted, ms | error |
| --- | --- | ---: | ---: | ---: | ---: |
{checks}

## What the table was solved from

| attention, KV groups by layer | FFN, channels by layer | measured, ms | spread |
| --- | --- | ---: | ---: |
{measured}

Spread is the largest less the smallest repeat, as a share of the smallest. `python benchmarks/latency_demo.py` writes
the raw data and this page.
"""


def rows(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def widths(counts: tuple[int, ...]) -> str:
    return f"{len(counts)} x {counts[0]}" if len(set(counts)) == 1 else ", ".join(map(str, counts))


def described(shape: DecodeShape) -> list[str]:
    return [widths(shape.kv_groups), widths(shape.ffn_channels)]


def check_rows(table: LatencyTable) -> list[list[str]]:
    return [
        [
            *described(check.shape),
            f"{check.seconds * 1e3:.2f}",
            f"{check.spread:.0%}",
            f"{table.step_s(check.shape) * 1e3:.2f}",
            f"{error:+.1%}",
        ]
        for check, error in zip(table.checks, table.errors, strict=True)
    ]


def answer(table: LatencyTable) -> str:
    worst = max(abs(error) for error in table.errors)
    spread = max(timing.spread for timing in (*table.measured, *table.checks))
    found = f"predictions for {len(table.checks)} random uneven shapes are off by up to {worst:.1%}"
    if worst < spread:
        return f"**Not told by this run**: {found}, but repeats of one engine spread by up to {spread:.0%}."
    return f"**Answer:** {found}, where repeats of one engine spread by up to {spread:.0%}."


def render(raw: dict[str, Any]) -> str:
    """The page, made from the raw data alone."""
    table = LatencyTable.model_validate(raw)
    entries = [
        [UNITS[e.unit], str(e.count), f"{e.seconds * 1e6:.0f}", f"{(e.unpooled_s or 0.0) * 1e6:.0f}"]
        for e in table.entries
    ]
    measured = [[*described(t.shape), f"{t.seconds * 1e3:.2f}", f"{t.spread:.0%}"] for t in table.measured]
    return PAGE.format(
        answer=answer(table),
        batch=table.batch,
        context=table.context_tokens,
        engine=table.engine,
        hardware=table.hardware,
        repeats=len(table.measured[0].steps_s),
        drift=table.drift,
        fixed_ms=table.fixed_s * 1e3,
        entries=rows(entries),
        pooled_us=table.pooled_s * 1e6,
        checks=rows(check_rows(table)),
        measured=rows(measured),
    )


def main(*, render_only: bool) -> None:
    if not render_only:
        with show_progress() as progress:
            measure_latency(REQUEST, progress)
    draw_page(STEM, render)


if __name__ == "__main__":
    main(render_only="--render-only" in sys.argv[1:])
