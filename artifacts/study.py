"""What does a study ask, and what is known about each of its cells?

A study is the product of models, methods, ratios, calibration sets, recovery budgets and seeds; every point of it is a
cell, and every cell is measured on the same texts, tasks and load levels. The file says so once; each cell's record
stands alone, so that a study can be interrupted, moved to another machine or extended without any of it being measured
twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.fleet import NAME_PATTERN
from artifacts.hardware import Hardware
from artifacts.lengths import Length
from artifacts.provenance import Provenance
from artifacts.traffic import Level
from artifacts.variant import Ratios, Unit

DENSE = "dense"
"""The method of every model's own cell, which no other method may be named."""
NO_RECOVERY = "none"
DEMO = "demo"
"""As a model: the embedded one. Texts are `demo:` and a part of its corpus, a task is `demo:line_ends`."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Tokens = Annotated[int, Field(gt=0)]


class StudyModel(Document):
    """A checkpoint, or a published shape whose weights are drawn: then only speed can be measured."""

    name: Name
    source: str | None = Field(default=None, description="folder, hub id, or `demo`")
    config: dict[str, Any] | None = Field(default=None, description="the content of config.json: a shape, no weights")
    params: Tokens | None = Field(default=None, description="for the estimate of cost, where the model is not here yet")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.config is None):
            raise ValueError("give either `source` or `config`, not both and not neither")
        return self


class StudyCalibration(Document):
    """One of several texts that calibrated methods look at: a file, a hub data set, or a part of the demo's corpus."""

    name: Name = Field(description="how records and reports call it")
    source: str


class StudyMethod(Document):
    """One way to prune. `ratios`, `seeds`, `models` and `calibrations` replace or narrow the study's own where they are
    given."""

    name: Name = Field(description="how records and reports call it")
    method: str | None = Field(default=None, description="the compressor's; null prunes nothing (a quantised twin)")
    units: tuple[Unit, ...] = ("ffn",)
    calibrated: bool = False
    repair: Literal["none", "ridge", "bias"] = "none"
    allocation: str = "uniform"
    budget: Literal["units", "params", "kv_bytes"] | None = None
    multiple_of: int | None = Field(default=None, gt=0)
    ratios: tuple[Ratio, ...] | None = None
    seeds: tuple[Seed, ...] | None = None
    models: tuple[Name, ...] | None = None
    calibrations: tuple[Name, ...] | None = Field(default=None, min_length=1)
    engine_flags: tuple[str, ...] = Field(default=(), description="for the engine that serves it, as in --quantization")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.name == DENSE:
            raise ValueError(f"`{DENSE}` is the unpruned model, which is measured in any case; choose another name")
        if self.method is None and set(self.ratios or ()) != {0.0}:
            raise ValueError("without `method` nothing is pruned: give `ratios = [0.0]`")
        if self.repair != "none" and not self.calibrated:
            raise ValueError(f"repair {self.repair!r} needs `calibrated = true`")
        if self.calibrations is not None and not self.calibrated:
            raise ValueError("`calibrations` of a method need `calibrated = true`")
        return self


class StudyRecovery(Document):
    """Training after pruning, at several budgets; `ratios`, `seeds` and `methods` narrow where it is done."""

    method: str
    tokens: tuple[Tokens, ...] = Field(min_length=1, description="training tokens, one cell each")
    learning_rate: float | None = Field(default=None, gt=0)
    batch_tokens: Tokens = 4096
    ratios: tuple[Ratio, ...] | None = None
    seeds: tuple[Seed, ...] | None = None
    methods: tuple[Name, ...] | None = None
    models: tuple[Name, ...] | None = None


class StudyText(Document):
    """A held-out text. `max_tokens` bounds what is predicted; with `divergence` also KL and JS from the dense model."""

    set: Name
    text: str
    length_tokens: int = Field(default=512, ge=2)
    max_tokens: Tokens | None = None
    divergence: bool = False


class StudyTask(Document):
    """Questions: a task the evaluation harness knows, its YAML, or a JSONL file."""

    task: Name
    source: str
    limit: Tokens | None = None


class PaperSpeed(Document):
    """Forward passes in Transformers, dense and variant in turn: `pairs` of them after one that only warms up."""

    mode: Literal["paper"]
    batch: int = Field(default=1, gt=0)
    tokens: int = Field(default=2048, ge=2)
    pairs: int = Field(default=8, ge=2)
    methods: tuple[Name, ...] | None = None
    ratios: tuple[Ratio, ...] | None = None

    @property
    def label(self) -> str:
        return f"forward {self.batch}x{self.tokens}"


class ServingSpeed(Document):
    """One paired load test of dense and variant, served side by side, at each level.

    `fairness` is which memory both get alike: the KV cache's (`kv`) or all of it (`memory`). Speeds of a cell that want
    the same engines are measured one after the other behind one server.
    """

    mode: Literal["serving"]
    name: Name = "serving"
    levels: tuple[Level, ...] = Field(min_length=1)
    prompt_tokens: Length
    output_tokens: Length
    blocks: int = Field(default=8, ge=2)
    window_s: float = Field(default=5, gt=0)
    warmup_s: float = Field(default=1, ge=0)
    max_model_len: Tokens | None = None
    round: int | None = Field(
        default=None, ge=1, description="in cells of their own, before all others and in this order: what must not wait"
    )
    models: tuple[Name, ...] | None = None
    fairness: Literal["kv", "memory"] = "kv"
    kv_cache_bytes: Tokens | None = None
    engine: Literal["vllm", "sim"] = "vllm"
    engine_flags: tuple[str, ...] = ()
    methods: tuple[Name, ...] | None = None
    ratios: tuple[Ratio, ...] | None = None


Speed = Annotated[PaperSpeed | ServingSpeed, Field(discriminator="mode")]


class StudyFile(Document):
    """The whole file. Paths are relative to its folder. Speeds are measured without recovery, with the first seed."""

    schema_version: Literal[1] = 1
    title: str
    models: tuple[StudyModel, ...] = Field(min_length=1)
    methods: tuple[StudyMethod, ...] = Field(min_length=1)
    ratios: tuple[Ratio, ...] = Field(default=(), description="for every method that names none of its own")
    seeds: tuple[Seed, ...] = (0,)
    recoveries: tuple[StudyRecovery, ...] = ()
    calibration: str | None = Field(default=None, description="text for calibrated methods")
    calibrations: tuple[StudyCalibration, ...] = Field(
        default=(), description="in its place several, each with cells of its own: a general text against a task's"
    )
    calibration_tokens: Tokens = 32768
    training: str | None = Field(default=None, description="text for recovery; not one of `texts`")
    texts: tuple[StudyText, ...] = ()
    tasks: tuple[StudyTask, ...] = ()
    speeds: tuple[Speed, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"
    gpus_per_cell: float = Field(default=0, ge=0, description="reserved for each cell on a cluster")
    cell_timeout_s: float | None = Field(default=None, gt=0, description="a cell that takes longer has failed")

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not (self.texts or self.tasks or self.speeds):
            raise ValueError("nothing is measured: give texts, tasks or speeds")
        if (self.texts or self.tasks or self.recoveries) and any(m.config for m in self.models):
            raise ValueError("a model of drawn weights has a speed only: leave out texts, tasks and recoveries")
        if self.calibration is not None and self.calibrations:
            raise ValueError("give either `calibration` or `calibrations`, not both")
        if not (self.calibration or self.calibrations) and any(method.calibrated for method in self.methods):
            raise ValueError("calibrated methods need `calibration`")
        if self.recoveries and self.training is None:
            raise ValueError("recoveries need `training`")
        if self.training is not None and self.training in {text.text for text in self.texts}:
            raise ValueError("`training` is one of `texts`: a model must not be trained on what it is measured on")
        return self

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Self:
        _require_distinct("model", [model.name for model in self.models])
        _require_distinct("method", [method.name for method in self.methods])
        _require_distinct("set or task", [t.set for t in self.texts] + [t.task for t in self.tasks])
        _require_distinct("serving speed", [s.name for s in self.speeds if isinstance(s, ServingSpeed)])
        _require_distinct("calibration", [each.name for each in self.calibrations])
        for method in self.methods:
            _require_known("calibration", method.calibrations, {each.name for each in self.calibrations})
        methods, models = {method.name for method in self.methods}, {model.name for model in self.models}
        for narrowed in (*self.recoveries, *self.speeds):
            _require_known("method", narrowed.methods, methods)
        served = [speed for speed in self.speeds if isinstance(speed, ServingSpeed)]
        limits = [[each.models for each in group] for group in (self.recoveries, self.methods, served)]
        for asked in (asked for group in limits for asked in group):
            _require_known("model", asked, models)
        bare = [method.name for method in self.methods if not (method.ratios or self.ratios)]
        if bare:
            raise ValueError(f"method {bare[0]!r} has no ratio: give `ratios` to it or to the study")
        return self


class LossOn(Document):
    """Mean cross-entropy a token; the standard error counts windows as independent, the tokens in one not."""

    set: str
    loss_nats: float
    base_loss_nats: float
    tokens: int
    standard_error_nats: float | None = None
    kl_nats: float | None = None
    js_nats: float | None = None


class AccuracyOn(Document):
    """Share of `items` questions answered rightly."""

    task: str
    accuracy: float
    base_accuracy: float
    items: int


class SpeedAt(Document):
    """One paired ratio with its 95 % interval. Above 1 is faster: dense / variant for times, the inverse for rates.

    `pairs` counts the units of replication. Bounds are null where there are too few of them, or where the values were
    not measured but counted (`kv_capacity_tokens`) or computed (`roofline_step_s`). The control is the dense model
    against itself in the same blocks.
    """

    mode: Literal["paper", "serving"]
    level: str = Field(description="a Level's label, or as in `forward 1x2048`")
    quantity: str = Field(description="such as output_tokens_per_s, tpot_p50_s, forward_s")
    speedup: float
    low: float | None
    high: float | None
    pairs: int
    base_value: float | None
    value: float | None
    unit: str
    control_low: float | None = None
    control_high: float | None = None


class Coordinates(Document):
    """Where a cell is in the study; `ratio` 0 with method `dense` is the model itself.

    `calibration` names one of the study's several texts; it is null where there are none, and without calibration.
    """

    model: str
    method: str
    ratio: Ratio
    allocation: str = "uniform"
    repair: str = "none"
    calibration: str | None = None
    recovery: str = NO_RECOVERY
    recovery_tokens: int = Field(default=0, ge=0)
    seed: int = 0

    @property
    def is_dense(self) -> bool:
        return self.method == DENSE


class CellRecord(Coordinates):
    """All that is known about one cell, whether it could be measured or not."""

    schema_version: Literal[1] = 1
    cell: str = Field(description="readable, with a hash over all that decides the result")
    status: Literal["done", "failed"]
    error: str | None = None
    ratios: Ratios | None = None
    losses: tuple[LossOn, ...] = ()
    accuracies: tuple[AccuracyOn, ...] = ()
    speeds: tuple[SpeedAt, ...] = ()
    params: int | None = None
    base_params: int | None = None
    hardware: Hardware | None = Field(default=None, description="what the roofline in `speeds` was computed from")
    left_out: tuple[str, ...] = Field(default=(), description="levels that failed a gate, with the gate's names")
    attempts: int = Field(default=1, ge=1)
    started_at: str = Field(description="ISO 8601, UTC")
    wall_s: float
    processor_s: float | None = Field(
        default=None,
        description="of the measuring process and of what it started and saw end; a busy machine adds none",
    )
    stages_s: dict[str, float] = Field(default_factory=dict, description="what the time went into")
    raw: str | None = Field(default=None, description="below the study's folder: the load tests' own files, if any")
    provenance: Provenance

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a failed cell has an error, and only a failed one")
        return self


def load_cells(folder: Path) -> tuple[CellRecord, ...]:
    """All records of a study's working folder, in the order of their names. Raises ConfigError for a damaged one."""
    return tuple(CellRecord.load(path) for path in sorted((folder / "cells").glob("*.json")))


def _require_distinct(kind: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{kind} names must be distinct; repeated: {', '.join(repeated)}")


def _require_known(kind: str, asked: tuple[str, ...] | None, known: set[str]) -> None:
    unknown = sorted(set(asked or ()) - known)
    if unknown:
        raise ValueError(f"{kind} {unknown[0]!r} is not in the study; allowed: {', '.join(sorted(known))}")
