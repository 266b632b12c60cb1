"""`variant.json`: what a pruned checkpoint is, where it came from, what it costs and what it keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import CheckpointError
from artifacts.files import sha256_of_file

MANIFEST_NAME = "variant.json"

# Widths: FFN channels, KV groups. Depth: whole layers, or one half of them. Hidden channels: of the residual stream.
# Weights: single ones, which become zero and keep their place.
Unit = Literal["ffn", "kv", "layers", "attention_sublayers", "ffn_sublayers", "hidden", "weights"]
TEXT_METRICS = ("loss_nats", "perplexity", "kl_nats", "js_nats", "top1_agreement")


class LayerShape(Document):
    """One decoder layer of the *base* model after pruning. Widths count units, not bytes."""

    index: int = Field(ge=0, description="position in the base model")
    present: bool = True
    query_heads: int = Field(ge=0)
    kv_heads: int = Field(ge=0)
    ffn_width: int = Field(ge=0)


class Footprint(Document):
    """What a checkpoint weighs. Derived from shapes alone; see `compressors.footprint` for the formulas."""

    params_total: int
    params_blocks: int = Field(description="parameters of the decoder layers, norms included")
    weights_bytes: int = Field(description="bytes of the weight files' tensors")
    kv_bytes_per_token: int = Field(description="2 x layers x KV heads x head width x bytes per cache element")
    flops_per_token: int = Field(description="2 x multiply-adds of all matrices for one decoded token, attention apart")


class Ratios(Document):
    """Removed shares in [0, 1]: the knob, and four that are computed from base and variant footprints."""

    nominal: float = Field(ge=0, lt=1)
    params_total: float
    params_blocks: float
    kv_bytes_per_token: float
    flops_per_token: float

    @classmethod
    def between(cls, nominal: float, base: Footprint, variant: Footprint) -> Ratios:
        def removed(field: str) -> float:
            return float(1 - getattr(variant, field) / getattr(base, field))

        return cls(
            nominal=nominal,
            params_total=removed("params_total"),
            params_blocks=removed("params_blocks"),
            kv_bytes_per_token=removed("kv_bytes_per_token"),
            flops_per_token=removed("flops_per_token"),
        )


class BaseModelRef(Document):
    """The model that was pruned: its name as given (a folder's last part, or a hub id) and its weights' hash."""

    name: str
    sha256: str
    architecture: str
    footprint: Footprint


class MethodRef(Document):
    """The method's name and its fully resolved configuration."""

    name: str
    config: dict[str, Any]
    units: tuple[Unit, ...]
    repair: Literal["none", "ridge", "bias"]
    seed: int
    multiple_of: int
    together: int = Field(default=1, description="blocks in a row that were pruned for what they output together")

    @model_validator(mode="before")
    @classmethod
    def _read_former_name(cls, data: Any) -> Any:
        """Manifests written before repairs had names say `compensate`: true was the ridge."""
        if isinstance(data, dict) and "compensate" in data:
            data = dict(data)
            data["repair"] = "ridge" if data.pop("compensate") else "none"
        return data


class AllocationRef(Document):
    """How the budget was spread over layers, and what it was counted in."""

    name: str
    config: dict[str, Any]
    budget: Literal["units", "params", "kv_bytes", "latency"]
    latency_table_sha256: str | None = None


class CalibrationRef(Document):
    """The text that the statistics came from."""

    corpus: str
    sha256: str
    tokens: int
    window_tokens: int
    seed: int


class StepRef(Document):
    """A compression that went before the last one; `nominal` is the ratio it was asked for."""

    method: MethodRef
    calibration: CalibrationRef | None
    nominal: float = Field(gt=0, lt=1)


class QualityRecord(Document):
    """One measured quality value with all that makes it comparable.

    Without `task` it is a mean over the tokens of a held-out text and `metric` is one of `TEXT_METRICS`; with `task` it
    is a score of the evaluation harness over `questions`, under the harness's own name for it (`acc`, `acc_norm`, ...).
    """

    metric: str
    value: float
    corpus: str = Field(description="the text's file, or where a task's questions come from")
    corpus_sha256: str = Field(description="of the text, or of a task's questions as they were asked")
    length_tokens: int = Field(description="window of a text; longest context with answer of a task")
    tokens: int = Field(description="how many were predicted")
    reference: str | None = None
    task: str | None = None
    questions: int | None = None
    stderr: float | None = Field(default=None, description="standard error of a task's score over its questions")
    through: Literal["transformers", "endpoint"] | None = Field(
        default=None, description="what computed a task's score"
    )
    harness: str | None = Field(default=None, description="name and version of what asked a task's questions")

    @model_validator(mode="after")
    def _is_comparable(self) -> Self:
        if self.task is None and self.metric not in TEXT_METRICS:
            raise ValueError(f"metric {self.metric!r} of a text is none of {', '.join(TEXT_METRICS)}")
        if self.task is not None and (self.questions is None or self.through is None):
            raise ValueError(f"task {self.task!r} lacks its questions or what it was scored through")
        return self


class RecoveryRef(Document):
    """How a variant was trained after pruning, and what that did to the loss on documents it was not trained on."""

    method: str
    config: dict[str, Any] = Field(description="the method's own settings, the peak learning rate among them")
    tokens: int = Field(description="training tokens read by each stage, repetitions counted")
    stages: int = Field(description="things trained one after the other: 1, or one for each cut half layer")
    steps: int = Field(description="optimizer steps of all stages together")
    batch_tokens: int
    window_tokens: int
    seed: int
    corpus: str
    corpus_sha256: str
    held_out_documents: int
    held_out_tokens: int
    loss_before_nats: float = Field(description="held-out loss of the variant that training began with")
    loss_after_nats: float = Field(description="held-out loss of the weights as they are stored")
    training_s: float
    peak_memory_bytes: int
    parent: str = Field(description="name of the variant that training began with")
    parent_fingerprint: str
    earlier: RecoveryRef | None = Field(default=None, description="the parent's own recovery, if it had one")


UNACCELERATED = "masked weights keep their place: vLLM gains no speed from them, and memory stays as it is"
"""What everything that shows a masked variant says of it; measured by `benchmarks/masked_serving.py`."""


class SparsityRef(Document):
    """Single weights that are zero in matrices of full shape. No engine here computes them any faster than others."""

    pattern: str = Field(description="unstructured, or n:m for n zeros in every m consecutive weights of a row")
    asked: float = Field(ge=0, lt=1, description="share of the weights of every matrix in the blocks")
    zeros: int = Field(ge=0, description="zero weights in all matrices of the blocks, counted in the files")
    weights: int = Field(gt=0, description="weights of those matrices")

    @property
    def share(self) -> float:
        return self.zeros / self.weights


class CompressionCost(Document):
    """What making the variant took."""

    wall_s: float
    peak_memory_bytes: int
    stages_s: dict[str, float]


class VariantManifest(Document):
    """The content of `variant.json`."""

    schema_version: Literal[1] = 1
    name: str
    base: BaseModelRef
    method: MethodRef
    allocation: AllocationRef | None = None
    calibration: CalibrationRef | None
    earlier: tuple[StepRef, ...] = Field(default=(), description="the steps before the last, of a chain")
    layers: tuple[LayerShape, ...]
    hidden_size: int | None = Field(default=None, description="width of the residual stream; null in older manifests")
    footprint: Footprint
    ratios: Ratios
    sparsity: SparsityRef | None = Field(default=None, description="of what was masked; shapes and ratios say nothing")
    expressibility: Literal["stock", "per-layer"]
    architecture: str = Field(description="the class the checkpoint names, which may be a lossless re-labelling")
    recovery: RecoveryRef | None = None
    quality: tuple[QualityRecord, ...] = ()
    cost: CompressionCost
    versions: dict[str, str]
    checksums: dict[str, str] = Field(description="SHA-256 of every other file in the directory")

    @property
    def fingerprint(self) -> str:
        """Short hash of the weights and the configuration, stamped on served responses."""
        return hashlib.sha256(repr(sorted(self.checksums.items())).encode()).hexdigest()[:12]


def is_variant(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file()


def load_variant(folder: Path) -> VariantManifest:
    """Raises ConfigError if there is no valid manifest."""
    return VariantManifest.load(folder / MANIFEST_NAME)


def verify_checksums(folder: Path, manifest: VariantManifest) -> None:
    """Raises CheckpointError naming the first file that is missing or differs from what was written."""
    for name, expected in sorted(manifest.checksums.items()):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, variant.json lists it. Run compress again for this variant.")
        if sha256_of_file(path) != expected:
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 differs from variant.json. Run compress again for this variant."
            )


def record_quality(folder: Path, records: tuple[QualityRecord, ...]) -> VariantManifest:
    """Adds measured values to `variant.json`, replacing earlier ones of the same metric, task, corpus, length and way.

    Raises ConfigError if the folder has no manifest.
    """
    manifest = load_variant(folder)
    replaced = {_quality_key(record) for record in records}
    kept = tuple(record for record in manifest.quality if _quality_key(record) not in replaced)
    updated = manifest.model_copy(update={"quality": kept + records})
    updated.save(folder / MANIFEST_NAME)
    return updated


def _quality_key(record: QualityRecord) -> tuple[str | int | None, ...]:
    return record.metric, record.task, record.corpus_sha256, record.length_tokens, record.through
