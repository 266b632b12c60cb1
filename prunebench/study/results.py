"""A study's records as one long table, for programs that are not this one: Parquet and SQLite, alike in content.

One row per cell and measured value. Both files are derived: they can be deleted and are written anew from the records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.files import PARTIAL_SUFFIX, disk_error
from artifacts.study import CellRecord

PARQUET_NAME = "results.parquet"
SQLITE_NAME = "results.sqlite"
TABLE = "results"

_TEXT, _WHOLE, _REAL = (pa.string(), "TEXT"), (pa.int64(), "INTEGER"), (pa.float64(), "REAL")
_OF_CELL = ("cell", "model", "method", "allocation", "repair", "calibration", "recovery", "status", "error")
COLUMNS = {
    **dict.fromkeys(_OF_CELL, _TEXT),
    "ratio": _REAL,
    "recovery_tokens": _WHOLE,
    "seed": _WHOLE,
    **dict.fromkeys(("kind", "of", "measure", "unit"), _TEXT),
    **dict.fromkeys(("value", "base_value", "low", "high"), _REAL),
    "n": _WHOLE,
}
_NUMBERS_OF_CELL = ("ratio", "recovery_tokens", "seed")


def rows_of(record: CellRecord) -> Iterator[dict[str, Any]]:
    """`kind` is loss, accuracy, speed, ratio or cost; `of` the text, task or level; `n` what the value rests on."""
    own = {name: getattr(record, name) for name in (*_OF_CELL, *_NUMBERS_OF_CELL)}
    for kind, of, measure, value, rest in _values(record):
        yield dict.fromkeys(COLUMNS) | own | {"kind": kind, "of": of, "measure": measure, "value": value} | rest


def _values(record: CellRecord) -> Iterator[tuple[str, str | None, str, float | None, dict[str, Any]]]:
    yield "cost", None, "wall_s", record.wall_s, {"unit": "s"}
    if record.processor_s is not None:
        yield "cost", None, "processor_s", record.processor_s, {"unit": "s"}
    for stage, seconds in record.stages_s.items():
        yield "cost", stage, "stage_s", seconds, {"unit": "s"}
    if record.ratios is not None:
        for name, value in record.ratios.model_dump().items():
            yield "ratio", None, name, value, {}
    if record.params is not None:
        yield "ratio", None, "params", float(record.params), {"base_value": record.base_params}
    for loss in record.losses:
        n = {"unit": "nats", "n": loss.tokens}
        yield "loss", loss.set, "loss_nats", loss.loss_nats, n | {"base_value": loss.base_loss_nats}
        for name in ("standard_error_nats", "kl_nats", "js_nats"):
            if (found := getattr(loss, name)) is not None:
                yield "loss", loss.set, name, found, n
    for score in record.accuracies:
        yield "accuracy", score.task, "accuracy", score.accuracy, {"base_value": score.base_accuracy, "n": score.items}
    for speed in record.speeds:
        level, pairs = f"{speed.mode}: {speed.level}", {"n": speed.pairs}
        both = {"low": speed.low, "high": speed.high}
        yield "speed", level, f"speedup_{speed.quantity}", speed.speedup, pairs | both
        yield "speed", level, speed.quantity, speed.value, pairs | {"base_value": speed.base_value, "unit": speed.unit}


def write_results(records: Sequence[CellRecord], folder: Path) -> tuple[Path, Path]:
    """Both files under their final names only when complete. Raises ConfigError if the disk is full."""
    rows = [row for record in records for row in rows_of(record)]
    made = (folder / PARQUET_NAME, folder / SQLITE_NAME)
    for path, write in zip(made, (_write_parquet, _write_sqlite), strict=True):
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            write(rows, partial)
            partial.replace(path)
        except (OSError, sqlite3.OperationalError) as error:
            if partial.exists():
                partial.unlink()
            raise disk_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    return made


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    schema = pa.schema([(name, column) for name, (column, _) in COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def _write_sqlite(rows: Sequence[dict[str, Any]], path: Path) -> None:
    columns = ", ".join(f'"{name}" {kind}' for name, (_, kind) in COLUMNS.items())
    marks = ", ".join(f":{name}" for name in COLUMNS)
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"CREATE TABLE {TABLE} ({columns})")
        base.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", rows)
        base.commit()
