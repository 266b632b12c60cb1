"""The run directory: `run.json` and `requests.parquet`, enough to recompute every published figure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from artifacts.document import Document
from artifacts.energy import Energy
from artifacts.errors import ConfigError, LoadTestError
from artifacts.provenance import Provenance
from artifacts.traffic import Level as Level
from artifacts.traffic import TraceSource
from artifacts.traffic import Workload as Workload

RUN_NAME = "run.json"
REQUESTS_NAME = "requests.parquet"


class Gate(Document):
    """One validity check. A failed gate fails the run: its numbers must not be published."""

    name: str
    observed: float | None
    limit: float
    unit: str
    passed: bool
    cause: str = Field(description="likely cause when it fails")
    remedy: str


class Interval(Document):
    """One way's confidence interval."""

    method: Literal["paired_t", "bca_bootstrap"]
    low: float
    high: float


class Estimate(Document):
    """A value with its confidence interval; `n` counts the units of replication (blocks for ratios).

    `low` and `high` are those of `published`, one of `intervals`; `p_value` is that of the paired t test against 1.
    """

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    n: int
    published: Literal["paired_t", "bca_bootstrap"] | None = None
    intervals: tuple[Interval, ...] = ()
    p_value: float | None = None


class Suppressed(Document):
    """A percentile that is not published, because `samples` values do not certify it and `needed` would."""

    measure: str
    samples: int
    needed: int


class Window(Document):
    """The measured span of one arm in one block, in seconds on the records' clock: [start_s, end_s)."""

    arm: int
    block: int
    start_s: float
    end_s: float


class ArmSummary(Document):
    """One model's measures over the run. Percentiles are null below the sample size that certifies them."""

    model: str
    fingerprint: str | None
    requests: int
    failures: int
    failures_by_kind: dict[str, int]
    output_tokens: int
    measures: dict[str, float | None] = Field(description="keys: artifacts.measures.MEASURES")
    suppressed: tuple[Suppressed, ...] = ()


class Comparison(Document):
    """Ratios of `model` to `against`, per measure, one value per block, paired. Above 1 is faster for `speedup_*`, and
    less energy per token for `energy_ratio_*`.

    `suppressed` counts the values of the block that has fewest. `model` may be `against`: then it is the A/A control.
    """

    model: str
    against: str
    ratios: dict[str, Estimate]
    block_ratios: dict[str, tuple[float, ...]]
    suppressed: tuple[Suppressed, ...] = ()

    @property
    def is_control(self) -> bool:
        return self.model == self.against


class Design(Document):
    """What the run can show, decided before it: from `spread`, the standard deviation of a block's log-ratio.

    `minimum_detectable` is a ratio's distance from 1 that is found with probability `power`, whatever the others of
    the `family` hypotheses tested together show. `wanted` is what was asked for, if anything was.
    """

    blocks: int
    spread: float
    spread_source: str
    confidence: float
    power: float
    family: int
    minimum_detectable: float | None
    wanted: float | None = None


class Steadiness(Document):
    """How much one arm's `signal` differs between the halves of its windows.

    `drift` is the log-ratio of the second half's mean to the first's, averaged over blocks, `sure` the part of its size
    that chance does not explain (99 %), `cut` the share of the window that MSER-5 would leave out at its beginning.
    """

    arm: int
    signal: Literal["ttft", "in_flight"]
    drift: float
    sure: float
    cut: float
    blocks: int


class LittlesLaw(Document):
    """One arm in one block: `in_flight` requests on average (L), `arrivals_per_s` (lambda), `sojourn_s` each (W)."""

    arm: int
    block: int
    in_flight: float
    arrivals_per_s: float
    sojourn_s: float

    @property
    def residual(self) -> float:
        """(L - lambda W) / L, 0 where nothing was under way."""
        return 1 - self.arrivals_per_s * self.sojourn_s / self.in_flight if self.in_flight else 0.0


class MixedModel(Document):
    """One model of an arm that mixes several. `beside_alone` compares it with its own arm, if the run has one."""

    arm: int
    share: float
    summary: ArmSummary
    beside_alone: Comparison | None


class RunManifest(Document):
    """The content of `run.json`."""

    schema_version: Literal[1, 2] = 2
    url: str
    models: tuple[str, ...] = Field(description="as asked for; `a=0.9,b=0.1` is an arm that mixes two")
    against: str | None
    level: Level
    workload: Workload
    trace: TraceSource | None = None
    context_tokens: int | None = Field(default=None, description="what prompt and output together were cut to fit")
    clipped_requests: int = Field(default=0, description="how many records asked for less than was drawn, for that")
    duration_s: float = Field(description="measured seconds per arm, all blocks together")
    blocks: int
    warmup_s: float
    gates: tuple[Gate, ...]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    mixed: tuple[MixedModel, ...] = ()
    windows: tuple[Window, ...] = Field(default=(), description="what was measured when, in the order of play")
    design: Design | None = None
    steadiness: tuple[Steadiness, ...] = ()
    littles_law: tuple[LittlesLaw, ...] = ()
    energy: Energy | None = Field(default=None, description="null in runs from before meters were read")
    server_metrics: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="per model: difference of the server's counters over the run"
    )
    client: dict[str, float] = Field(default_factory=dict, description="CPU share, reads, events of the load client")
    served: dict[str, Any] = Field(default_factory=dict, description="/v1/models entries of the arms, as served")
    provenance: Provenance

    @property
    def valid(self) -> bool:
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. Times are seconds on one monotonic clock, zero at the start of the run; null = never happened.

    `event_s` holds one time per received piece of the response that carried output (a read may carry several
    events: then the same time stands several times). `arm` tells two arms of the same model (a control) apart: it is
    the position in the manifest's `arms`; `model` is who was asked, also where the arm mixes several. `error` starts
    with its kind: `kind: what happened`. `asked_*` are the lengths asked for; null where nobody could know (a
    conversation's tokens are the server's to count; records of version 1 hold none).
    """

    model: str
    block: int
    index: int
    warmup: bool
    scheduled_s: float
    sent_s: float | None
    first_s: float | None
    last_s: float | None
    done_s: float | None
    status: int | None
    error: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    finish_reason: str | None
    reads: int
    event_s: tuple[float, ...]
    arm: int = 0
    asked_prompt_tokens: int | None = None
    asked_output_tokens: int | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and self.output_tokens is not None

    @property
    def failure_kind(self) -> str | None:
        return None if self.error is None else self.error.partition(":")[0]


_PER_S = 1 << 20
_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("block", pa.int32()),
        ("index", pa.int32()),
        ("warmup", pa.bool_()),
        *((name, pa.float64()) for name in ("scheduled_s", "sent_s", "first_s", "last_s", "done_s")),
        ("status", pa.int32()),
        ("error", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("reads", pa.int32()),
        ("event_s", pa.list_(pa.float64())),
        ("arm", pa.int32()),
        ("asked_prompt_tokens", pa.int32()),
        ("asked_output_tokens", pa.int32()),
    ]
)


def write_requests(path: Path, records: list[RequestRecord]) -> None:
    """The times of tokens, which are most of the file, to a microsecond: as multiples of 2^-20 s, whose last bytes are
    zero, and with equal bytes of all of them side by side, they take two bytes each, a quarter of what they would."""
    columns = {f.name: [getattr(r, f.name) for r in records] for f in fields(RequestRecord)}
    columns["event_s"] = [(np.round(np.array(times) * _PER_S) / _PER_S) for times in columns["event_s"]]
    pq.write_table(
        pa.table(columns, schema=_SCHEMA),
        path,
        compression="zstd",
        use_dictionary=[name for name in _SCHEMA.names if name != "event_s"],
        column_encoding={"event_s.list.element": "BYTE_STREAM_SPLIT"},
    )


def read_requests(path: Path, events: bool = True) -> list[RequestRecord]:
    """Without `events`, `event_s` is empty: most of a file is the times of tokens.

    Raises LoadTestError if the file is missing or has other columns.
    """
    columns = [name for name in _SCHEMA.names if events or name != "event_s"]
    try:
        rows = pq.read_table(path, schema=_SCHEMA, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise LoadTestError(f"{path} cannot be read ({error}). Run the load test again.") from error
    return [RequestRecord(**{**row, "event_s": tuple(row.get("event_s", ()))}) for row in rows]


def load_run(folder: Path) -> RunManifest:
    """Raises ConfigError if the folder holds no valid run."""
    if not (folder / RUN_NAME).is_file():
        raise ConfigError(f"{folder} holds no {RUN_NAME}. Give folders that `prunebench loadtest --out` wrote.")
    return RunManifest.load(folder / RUN_NAME)
