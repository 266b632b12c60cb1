"""What did real traffic look like? Recorded requests from CSV or JSON lines, in the layouts that traces come in.

A layout says which columns hold the time and the lengths, and how the time is written; the container is told by the
file's name. What is wrong is told with its line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from artifacts.files import sha256_of_file
from artifacts.traffic import TraceFormat, TraceSource

MOONCAKE_BLOCK_TOKENS = 512
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """`at_s` counts from the trace's first request. `blocks` are ids of prompt blocks that requests may share."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    time: str
    seconds: Callable[[Any], float]
    prompt: str
    output: str
    blocks: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.time, self.prompt, self.output, *((self.blocks,) if self.blocks else ()))


def _timestamp_s(value: Any) -> float:
    """ISO 8601; of seven fractional digits six count. Without a zone it is taken as it is: only differences matter."""
    moment = datetime.fromisoformat(str(value).strip())
    return (moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo)).total_seconds()


_LAYOUTS: dict[TraceFormat, _Layout] = {
    "azure": _Layout(time="TIMESTAMP", seconds=_timestamp_s, prompt="ContextTokens", output="GeneratedTokens"),
    "mooncake": _Layout(
        time="timestamp",
        seconds=lambda value: float(value) / 1e3,
        prompt="input_length",
        output="output_length",
        blocks="hash_ids",
    ),
    "generic": _Layout(time="time_s", seconds=float, prompt="prompt_tokens", output="output_tokens"),
}


def read_trace(source: TraceSource) -> tuple[TraceRequest, ...]:
    """The requests of the span [from_s, to_s), in order, at the file's own times and lengths; `at_s` from its start.

    Raises ConfigError, with the line where there is one, for a file that cannot be read or lacks what its layout
    names, for a time or a count that is none, and for a span without requests.
    """
    path, layout = Path(source.path), _LAYOUTS[source.format]
    try:
        found = [_request(path, number, row, layout) for number, row in _rows(path, layout)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Give a trace as CSV or JSON lines.") from error
    found.sort(key=lambda request: request.at_s)
    end_s = math.inf if source.to_s is None else source.to_s
    zero_s = found[0].at_s if found else 0.0
    inside = [_from(request, zero_s + source.from_s) for request in found if _lies(request, zero_s, source, end_s)]
    if not inside:
        length_s = found[-1].at_s - zero_s if found else 0.0
        raise ConfigError(
            f"{path} holds no request from {source.from_s:g} s to {end_s:g} s. "
            f"It holds {len(found)} requests in {length_s:g} s."
        )
    return tuple(inside)


def identified(source: TraceSource) -> TraceSource:
    """The source with its file's hash. Raises ConfigError if there is no such file."""
    try:
        return source.model_copy(update={"sha256": sha256_of_file(Path(source.path))})
    except OSError as error:
        raise ConfigError(f"{source.path} cannot be read ({error.strerror}). Give the path of a trace.") from error


def _lies(request: TraceRequest, zero_s: float, source: TraceSource, end_s: float) -> bool:
    return source.from_s <= request.at_s - zero_s < end_s


def _from(request: TraceRequest, zero_s: float) -> TraceRequest:
    return TraceRequest(
        at_s=round(request.at_s - zero_s, 6),  # an epoch in a float is good to a quarter of a microsecond
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        blocks=request.blocks,
    )


def _rows(path: Path, layout: _Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from (_json_rows(path, lines) if path.suffix in _JSON_LINES else _csv_rows(path, lines, layout))


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number} is not JSON ({error.msg}). Mend or remove the line.") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is no JSON object. Mend or remove the line.")
        yield number, row


def _csv_rows(path: Path, lines: Iterator[str], layout: _Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = [name for name in layout.columns if name not in (reader.fieldnames or ())]
    if missing:
        named = ", ".join(reader.fieldnames or ()) or "none"
        raise ConfigError(
            f"{path} has no column {', '.join(missing)}; its first line names {named}. "
            "Choose the --trace-format whose columns it has: " + "; ".join(_described()) + "."
        )
    for row in reader:
        yield reader.line_num, row


def _described() -> list[str]:
    return [f"{name} ({', '.join(layout.columns)})" for name, layout in _LAYOUTS.items()]


def _request(path: Path, number: int, row: dict[str, Any], layout: _Layout) -> TraceRequest:
    def value(column: str, convert: Callable[[Any], Any], what: str) -> Any:
        try:
            return convert(row[column])
        except KeyError as error:
            raise ConfigError(
                f"{path}, line {number} has no {column}. Choose the --trace-format whose columns it has: "
                + "; ".join(_described())
                + "."
            ) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"{path}, line {number}: {column} {row[column]!r} is not {what}. Mend the line."
            ) from error

    return TraceRequest(
        at_s=value(layout.time, lambda raw: _finite(layout.seconds(raw)), "a time"),
        prompt_tokens=value(layout.prompt, _count, "a number of tokens"),
        output_tokens=value(layout.output, _count, "a number of tokens"),
        blocks=value(layout.blocks, _ids, "a list of block ids") if layout.blocks else (),
    )


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def _count(raw: Any) -> int:
    number = int(raw)
    if number < 0 or isinstance(raw, bool | float):
        raise ValueError
    return number


def _ids(raw: Any) -> tuple[int, ...]:
    if isinstance(raw, str):
        raw = json.loads(raw)
    if not isinstance(raw, list):
        raise TypeError
    return tuple(_count(identity) for identity in raw)
