"""What is a panel, before Grafana's schema: a question, its queries, a unit, and a description with all definitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from dashboards.metrics import metrics_in

Unit = Literal[
    "s",
    "reqps",
    "none",
    "percentunit",
    "bytes",
    "Bps",
    "watt",
    "hertz",
    "celsius",
    "suffix: tokens/s",
    "suffix: tokens",
    "suffix:×",
    "suffix: FLOP/s",
    "suffix: FLOP/byte",
    "suffix: J/token",
]
Builder = timeseries.Panel | stat.Panel | statetimeline.Panel
Need = Literal["gpu", "load test", "mfu"]

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDE = 24

_NEEDS: dict[Need, str] = {
    "gpu": "Needs an NVIDIA GPU on the gateway's machine: without one this panel has no data.",
    "load test": "Has data while `prunebench loadtest` or Locust runs with its metrics page on.",
    "mfu": "Needs engines started with `--enable-mfu-metrics` (`engine_flags` in the fleet file).",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One query, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`about` says what the panel answers and what is healthy. `bounds` are the axis' ends, where they are known.

    `alarms`: from these values on a stat turns yellow and red.
    """

    title: str
    about: str
    lines: tuple[Line, ...]
    unit: Unit = "none"
    kind: Literal["lines", "stat", "states"] = "lines"
    width: int = 8
    bounds: tuple[float | None, float | None] = (0, None)
    alarms: tuple[float, float] | None = None
    stacked: bool = False
    needs: Need | None = None


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def description(panel: Panel) -> str:
    """What it answers, what it needs, and the definition of each metric in it."""
    metrics = dict.fromkeys(metric for line in panel.lines for metric in metrics_in(line.expr))
    defined = "\n".join(f"- `{metric.name}`: {metric.definition}" for metric in metrics)
    needed = [_NEEDS[panel.needs]] if panel.needs else []
    return "\n\n".join((panel.about, *needed, defined))


def panel_builder(panel: Panel, number: int) -> Builder:
    """`number` is the panel's id: stable as long as the board's order is."""
    made = _of_kind(panel)
    made.id(number).title(panel.title).description(description(panel)).datasource(DATASOURCE)
    made.height(4 if panel.kind == "stat" else 8).span(panel.width).unit(panel.unit).targets(_targets(panel))
    low, high = panel.bounds
    if low is not None:
        made.min(low)
    if high is not None:
        made.max(high)
    return made


def _of_kind(panel: Panel) -> Builder:
    if panel.kind == "lines":
        return _lines(panel)
    return _stat(panel) if panel.kind == "stat" else _states(panel)


def _targets(panel: Panel) -> list[builder.Builder[variants.Dataquery]]:
    targets: list[builder.Builder[variants.Dataquery]] = []
    for place, line in enumerate(panel.lines):
        target = prometheus.Dataquery().expr(line.expr).legend_format(line.legend).ref_id(chr(ord("A") + place))
        targets.append(target.instant() if panel.kind == "stat" else target.range())
    return targets


def _lines(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().line_width(1).fill_opacity(20 if panel.stacked else 0)
    made.show_points(common.VisibilityMode.NEVER)
    if panel.stacked:
        made.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL))
    legend = options.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True)
    made.legend(legend.placement(common.LegendPlacement.BOTTOM))
    return made.tooltip(options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))


def _stat(panel: Panel) -> stat.Panel:
    calculation = options.ReduceDataOptions().calcs(["lastNotNull"])
    made = stat.Panel().reduce_options(calculation).graph_mode(common.BigValueGraphMode.NONE)
    steps = [models.Threshold(value=None, color="green")]
    if panel.alarms is not None:
        steps += [models.Threshold(value=at, color=c) for at, c in zip(panel.alarms, ("yellow", "red"), strict=True)]
    thresholds = builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    return made.thresholds(thresholds).color_mode(common.BigValueColorMode.VALUE)


def _states(panel: Panel) -> statetimeline.Panel:
    return (
        statetimeline.Panel().merge_values(True).show_value(common.VisibilityMode.NEVER).line_width(0).fill_opacity(70)
    )
