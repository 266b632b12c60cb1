"""A study's speeds as a page of text: what was gained at each level, beside the control and the roofline.

Everything on it is looked up from the cells' records. The claims about speed come first; what failed comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically
from artifacts.study import CellRecord, SpeedAt
from artifacts.units import format_seconds, quantity
from laws.claims.catalogue import CLAIMS
from laws.claims.claim import Verdict, judge
from laws.studies.comparison import analyse
from laws.studies.joining import read_studies
from laws.studies.records import Study, measured_on, method_label
from laws.studies.speeds import FORWARD, load_order

SPEED_CLAIMS = ("C5", "C6", "C7", "C8", "C9")
_RATE, _STEP, _FIRST = "output_tokens_per_s", "tpot_p50_s", "ttft_p50_s"
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and what stands below it for one cell at one level; rows are by quantity."""

    heading: str
    text: Callable[[dict[str, SpeedAt]], str]


def write_speed_page(folders: Sequence[Path], out: Path) -> dict[str, str]:
    """Reads studies as one and writes the page; returns what to print.

    Raises ConfigError for studies without speeds, and what reading them raises.
    """
    study = read_studies(folders)
    if not any(cell.speeds for cell in study.cells):
        raise ConfigError(f"{folders[0]} holds no speeds. Name an .html file for the report of its losses.")
    write_text_atomically(out, speed_page(study))
    return {"report": str(out)}


def speed_page(study: Study) -> str:
    """Markdown. The same cells give the same page."""
    lines = [f"# {study.title}", "", f"Measured on {measured_on(study.cells)}.", "", *_hardware(study.cells)]
    lines += ["## The claims about speed", "", *_verdicts(study), ""]
    for mode, heading, columns in (("serving", "Serving", _SERVING), ("paper", "Forward passes", _PAPER)):
        rows = list(_rows(study, mode, columns))
        if rows:
            lines += [f"## {heading}", "", *_EXPLAINED[mode], "", *_table(rows, len(columns)), ""]
    return "\n".join([*lines, *_missing(study)]).rstrip("\n") + "\n"


def _hardware(cells: Sequence[CellRecord]) -> list[str]:
    """Of the cells that measured it, the slowest and the fastest reading."""
    found = [cell.hardware for cell in cells if cell.hardware is not None]
    if not found:
        return []
    reads = [quantity(edge(each.memory_bytes_per_s for each in found), "B/s") for edge in (min, max)]
    flops = [quantity(edge(each.flops_per_s for each in found), "FLOP/s") for edge in (min, max)]
    return [f"Roofline of each cell's own measurement: {' to '.join(reads)}, {' to '.join(flops)}.", ""]


def _verdicts(study: Study) -> list[str]:
    analysis = analyse(study)
    claims = [claim for claim in CLAIMS if claim.id in SPEED_CLAIMS]
    rows = [["claim", "statement", "verdict", "where", "numbers", "why"]]
    for claim in claims:
        rows += [_verdict(claim.id, claim.statement, verdict) for verdict in judge(claim, analysis)]
    return _table(rows, 0)


def _verdict(claim: str, statement: str, verdict: Verdict) -> list[str]:
    numbers = "; ".join(
        f"{number.name} {number.value:.3g}{number.unit}{_ends(number.low, number.high)}" for number in verdict.numbers
    )
    where = " · ".join(part for part in (verdict.mode, verdict.scope) if part)
    return [claim, statement, f"**{verdict.verdict}**", where or _NONE, numbers or _NONE, verdict.reason]


def _rows(study: Study, mode: str, columns: Sequence[Column]) -> Iterator[list[str]]:
    """The header, then by model, level and method; nothing where nothing was measured."""
    found = [
        (cell, level, {row.quantity: row for row in cell.speeds if row.level == level and row.mode == mode})
        for cell in study.cells
        for level in dict.fromkeys(row.level for row in cell.speeds if row.mode == mode)
        if not cell.is_dense
    ]
    if not found:
        return
    yield ["model", "level", "method", "r", *(column.heading for column in columns)]
    found.sort(key=lambda each: (-(each[0].base_params or 0), load_order(each[1]), each[0].method, each[0].ratio))
    for cell, level, rows in found:
        own = [cell.model, level, method_label(cell), f"{cell.ratio:g}"]
        yield [*own, *(column.text(rows) for column in columns)]


def _speedup(name: str) -> Callable[[dict[str, SpeedAt]], str]:
    return lambda rows: _times(rows[name].speedup, rows[name].low, rows[name].high) if name in rows else _NONE


def _control(name: str) -> Callable[[dict[str, SpeedAt]], str]:
    def text(rows: dict[str, SpeedAt]) -> str:
        row = rows.get(name)
        return _NONE if row is None or row.control_low is None else _ends(row.control_low, row.control_high).strip()

    return text


def _both(name: str, shown: Callable[[float], str]) -> Callable[[dict[str, SpeedAt]], str]:
    """Dense, then variant."""

    def text(rows: dict[str, SpeedAt]) -> str:
        row = rows.get(name)
        if row is None or row.base_value is None or row.value is None:
            return _NONE
        return f"{shown(row.base_value)} → {shown(row.value)}"

    return text


def _joules(rows: dict[str, SpeedAt]) -> str:
    """Of the GPU, or of the processor where no GPU was read."""
    kinds = [name for name in ("joules_per_token_gpu", "joules_per_token_cpu") if name in rows]
    return _both(kinds[0], lambda value: f"{value:.3g}")(rows) if kinds else _NONE


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_SERVING = (
    Column("× tokens/s", _speedup(_RATE)),
    Column("A/A", _control(_RATE)),
    Column("tokens/s", _both(_RATE, _whole)),
    Column("× by roofline", _speedup("roofline_step_s")),
    Column("TPOT p50", _both(_STEP, format_seconds)),
    Column("TPOT p95", _both("tpot_p95_s", format_seconds)),
    Column("least step / TPOT p50", _both("reached_of_roofline", lambda value: f"{value:.2f}")),
    Column("TTFT p50", _both(_FIRST, format_seconds)),
    Column("TTFT p95", _both("ttft_p95_s", format_seconds)),
    Column("KV capacity, tokens", _both("kv_capacity_tokens", _whole)),
    Column("J/token", _joules),
)
_PAPER = (Column("× speed", _speedup(FORWARD)), Column("a pass", _both(FORWARD, format_seconds)))
_EXPLAINED = {
    "serving": [
        "Dense → variant, served side by side, in interleaved blocks; 95 % intervals over blocks. A/A is the dense "
        "model against itself in the same blocks. The least step is the roofline's for decoding: 1 is all that the "
        "hardware allows; where prompts are long, steps with a prompt in them are no decode steps. Levels whose gates "
        "failed are not here."
    ],
    "paper": ["Transformers, one pass of a whole prompt, dense and variant in turn, as the claims' paper timed it."],
}


def _missing(study: Study) -> list[str]:
    """What was asked for and has no number."""
    left = [f"* {cell.cell}: {text}" for cell in study.cells for text in cell.left_out]
    failed = [f"* {cell.cell}: {cell.error}" for cell in study.failed]
    lines = ["## Levels whose gates failed", "", *left, ""] if left else []
    return [*lines, *(["## Cells that failed", "", *failed] if failed else [])]


def _times(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}×{_ends(low, high)}"


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"


def _table(rows: Iterable[Sequence[str]], numbers: int) -> list[str]:
    """Markdown; the last `numbers` columns stand right."""
    header, *rest = rows
    words = len(header) - numbers
    ruler = ["---"] * words + ["---:"] * numbers
    return ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in (header, ruler, *rest)]
