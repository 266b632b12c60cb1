"""What the runner and the Locust process it starts agree on: names of files, a variable, and the progress line.

Standard library only: both sides import it.
"""

from __future__ import annotations

PLAN_NAME = "plan.json"
RECORDS_NAME = "records.parquet"
OUTCOME_NAME = "outcome.json"
STOPPED_NAME = "stopped.txt"
"""Why a run was stopped before its end: one sentence."""

API_KEY_VARIABLE = "PRUNEBENCH_API_KEY"
"""The key travels in the environment: a command line or a kept plan would show it."""

METRICS_ADDRESS_VARIABLE = "PRUNEBENCH_METRICS_ADDRESS"
"""HOST:PORT where a run shows its own figures to Prometheus; not set, it shows none."""

_MARK = "prunebench-progress"


def part_name(name: str, number: int) -> str:
    """The file of client process `number`: each writes its own records and its own outcome."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}-{number}.{ending}"


def progress_line(done_s: float, total_s: float) -> str:
    return f"{_MARK} {done_s:.3f} {total_s:.3f}\n"


def parse_progress(line: str) -> tuple[float, float] | None:
    """(done_s, total_s), or None for any other line that Locust prints."""
    mark, _, rest = line.strip().partition(" ")
    if mark != _MARK:
        return None
    done_s, total_s = rest.split()
    return float(done_s), float(total_s)
