"""What do all dashboards share? A stable uid, the same variables, links to each other, and one grid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards.metrics import STATE, WINDOW
from dashboards.panels import DATASOURCE, Row, panel_builder
from dashboards.promql import gauge, largest

TAG = "prunebench"
Variable = Literal["variant", "reference", "window", "slo_ttft", "slo_tpot", "peak_bandwidth", "peak_flops"]

# Bounds of the engines' buckets, whose shares can be read off exactly.
TTFT_BOUNDS_S = ("0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10")
WINDOWS = ("1m", "5m", "15m", "1h")
TPOT_BOUNDS_S = ("0.005", "0.01", "0.02", "0.03", "0.05", "0.1", "0.25")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """`name` is the file's name; the uid is made of it, so that links outlive every rebuild."""

    name: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        return f"prunebench-{self.name}"


def as_json(board: Board) -> str:
    """What Grafana reads; the same bytes for the same board."""
    return json.dumps(built(board), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def built(board: Board) -> models.Dashboard:
    made = builders.Dashboard(board.title).uid(board.uid).description(board.about).tags([TAG])
    made.readonly().refresh("10s").time("now-30m", "now").timezone("browser")
    made.tooltip(models.DashboardCursorSync.CROSSHAIR).link(_links()).annotation(_runs())
    for variable in ("datasource", *board.variables):
        made.with_variable(_VARIABLES[variable]())
    numbers = itertools.count(1)
    for row in board.rows:
        made.with_row(builders.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(panel_builder(panel, next(numbers)))
    return made.build()


def _links() -> builders.DashboardLink:
    link = builders.DashboardLink("Prunebench").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True).icon("external link").tooltip("The other boards")


def _runs() -> builders.AnnotationQuery:
    """A load test's measured windows, shaded on every panel of every board."""
    query = builders.AnnotationQuery().name("Load test windows").datasource(DATASOURCE).enable(True)
    return query.icon_color("purple").expr(f"{largest(gauge(WINDOW), 'variant')} == 1")


def _datasource() -> builders.DatasourceVariable:
    return builders.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variant() -> builders.QueryVariable:
    made = _names("variant", "Variant", "Which variants the panels show.").multi(True).include_all(True)
    return made.all_value(".+").current(models.VariableOption(text=["All"], value=["$__all"], selected=True))


def _reference() -> builders.QueryVariable:
    made = _names("reference", "Reference", "What ratios are against: the dense model.")
    return made.current(models.VariableOption(text="dense", value="dense", selected=True))


def _names(name: str, label: str, about: str) -> builders.QueryVariable:
    made = builders.QueryVariable(name).label(label).description(about).datasource(DATASOURCE)
    made.query(f"label_values({STATE.name}, variant)").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return made.sort(models.VariableSort.ALPHABETICAL_ASC)


def _choice(name: str, label: str, values: tuple[str, ...], default: str, about: str) -> builders.CustomVariable:
    chosen = models.VariableOption(text=default, value=default, selected=True)
    return builders.CustomVariable(name).label(label).description(about).values(",".join(values)).current(chosen)


def _entry(name: str, label: str, default: str, about: str) -> builders.TextBoxVariable:
    chosen = models.VariableOption(text=default, value=default, selected=True)
    return builders.TextBoxVariable(name).label(label).description(about).default_value(default).current(chosen)


_VARIABLES: dict[str, Callable[[], Builder[models.VariableModel]]] = {
    "datasource": _datasource,
    "variant": _variant,
    "reference": _reference,
    "window": lambda: _choice("window", "Compared over", WINDOWS, "5m", "Longer than a load test's turns."),
    "slo_ttft": lambda: _choice("slo_ttft", "SLO: TTFT, s", TTFT_BOUNDS_S, "0.5", "MLPerf, interactive: 0.5 s."),
    "slo_tpot": lambda: _choice("slo_tpot", "SLO: TPOT, s", TPOT_BOUNDS_S, "0.03", "MLPerf, interactive: 0.03 s."),
    "peak_bandwidth": lambda: _entry("peak_bandwidth", "Peak, GB/s", "4800", "The device's memory bandwidth."),
    "peak_flops": lambda: _entry("peak_flops", "Peak, TFLOP/s", "989", "The device's peak at the model's type."),
}
