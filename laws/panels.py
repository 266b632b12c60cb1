"""Which pictures a report has, in which order."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from laws.capacity_figures import capacity_figure, front_figure
from laws.energy_figures import energy_figure
from laws.figures import (
    blocks_figure,
    load_figure,
    pareto_figure,
    ratios_figure,
    shapes_figure,
    speedup_figure,
    trade_figure,
)
from laws.findings import Findings
from laws.latency_figures import ecdf_figure, latency_figure

WIDE = ("speedup", "capacity", "shapes")
_PERCENTILES = "p50 solid, p90 dashed, p99 dotted"

PANELS: tuple[tuple[str, str, Callable[[Findings], go.Figure | None]], ...] = (
    ("speedup", "Speed-up over the reference", speedup_figure),
    ("trade", "What is gained, what is lost", trade_figure),
    ("throughput", "Throughput", lambda f: load_figure(f, "output_tokens_per_s", "tokens/s")),
    ("energy", "Energy per output token", energy_figure),
    ("pareto", "Throughput against interactivity (1 / TPOT p50)", pareto_figure),
    ("front", "Throughput against interactivity (1 / TPOT p50): the fronts", front_figure),
    ("ttft", f"Time to first token: {_PERCENTILES}", lambda f: latency_figure(f, "ttft")),
    ("tpot", f"Time per output token: {_PERCENTILES}", lambda f: latency_figure(f, "tpot")),
    ("ttft-ecdf", "Time to first token, request by request", lambda f: ecdf_figure(f, "ttft")),
    ("tpot-ecdf", "Time per output token, request by request", lambda f: ecdf_figure(f, "tpot")),
    ("capacity", "Rates that were tried within the SLO", capacity_figure),
    ("ratios", "What was pruned: five ratios", ratios_figure),
    ("blocks", "Is it steady? The pairs behind the interval", blocks_figure),
    ("shapes", "What is left, layer by layer", shapes_figure),
)
