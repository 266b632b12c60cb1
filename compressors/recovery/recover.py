"""From a variant directory to a new one that was trained: check, split the text, train, export, verify, rename.

The variant that is given is only read. The new one has its shapes, footprint, ratios and base model, weights that were
trained, no quality values yet, and `recovery` in its manifest. Training never touches text that the variant's quality
was measured on: its values would no longer say anything about unseen text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifacts.errors import ConfigError
from artifacts.files import complete_directory, require_free_name
from artifacts.progress import Progress, silent
from artifacts.provenance import package_versions
from artifacts.recovery import CURVE_NAME, LossCurve
from artifacts.variant import MANIFEST_NAME, RecoveryRef, VariantManifest, is_variant, load_variant
from compressors.export import PROBE_NAME
from compressors.manifest import VERSIONED, checksums_of, versions_of
from compressors.peak_memory import peak_bytes, restart_peak
from compressors.pipeline import Verifier
from compressors.recovery.checkpoint import write_checkpoint
from compressors.recovery.methods import method_named
from compressors.recovery.patient import Patient, ShapedModel
from compressors.recovery.registry import RecoveryMethod, resolved
from compressors.recovery.state import StateFolder, working_state
from compressors.recovery.training import Schedule, Trainer
from compressors.recovery.training_text import TrainingText, prepare_text
from compressors.request import Device, require_device
from compressors.source import Source, load_tokenizer, open_source
from compressors.text import TextCorpus, read_corpus
from compressors.verify import verify_in_fresh_process

Drawer = Callable[[Path], None]
_VERSIONED = (*VERSIONED, "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRequest:
    """What a user asks for. None is the method's own default.

    `tokens` are read by each stage of the method. `held_out_tokens` bounds one held-out evaluation.
    """

    variant: Path
    out: Path
    method: str
    text: Path
    teacher: Path | None = None
    tokens: int = 1_000_000
    batch_tokens: int = 4096
    window_tokens: int = 256
    held_out_share: float = 0.05
    held_out_tokens: int = 16_384
    learning_rate: float | None = None
    rank: int | None = None
    trainable: str | None = None
    seed: int = 0
    device: Device = "cpu"
    allow_evaluated_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A request whose every part was found and checked."""

    request: RecoveryRequest
    method: RecoveryMethod
    config: Any
    source: Source
    parent: VariantManifest
    corpus: TextCorpus
    teacher: Source | None

    @property
    def schedule(self) -> Schedule:
        request = self.request
        return Schedule(
            tokens=request.tokens,
            batch_windows=max(1, request.batch_tokens // request.window_tokens),
            window_tokens=request.window_tokens,
            learning_rate=self.config.learning_rate,
            seed=request.seed,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the trained bytes."""
        return {
            "parent": self.source.sha256,
            "corpus": self.corpus.sha256,
            "teacher": self.teacher and self.teacher.sha256,
            "method": self.method.name,
            "config": resolved(self.config),
            "versions": package_versions(_VERSIONED),
            **{name: getattr(self.request, name) for name in ("tokens", "batch_tokens", "window_tokens", "seed")},
            **{name: getattr(self.request, name) for name in ("held_out_share", "held_out_tokens", "device")},
        }


def draw_nothing(folder: Path) -> None:
    """For callers that want no picture."""


def recover(
    request: RecoveryRequest,
    progress: Progress = silent,
    verify: Verifier = verify_in_fresh_process,
    draw: Drawer = draw_nothing,
) -> VariantManifest:
    """Writes the variant directory `request.out` and returns its manifest; `draw(folder)` may add a picture first.

    An interrupted run is continued by the same request. Raises ConfigError, CheckpointError, UnsupportedModel or
    CompressionError; then nothing is left at `request.out`.
    """
    restart_peak()
    job = _check(request)
    progress("load", 0, 1)
    device = torch.device(request.device)
    text = _prepare_text(job)
    student = ShapedModel.load(job.source.folder, device)
    teacher = None if job.teacher is None else ShapedModel.load(job.teacher.folder, device)
    progress("load", 1, 1)
    patient = Patient(student=student, teacher=teacher, windows=text.windows, device=device, seed=request.seed)
    with working_state(request.out, job.identity) as state:
        trainer = _train(job, patient, text, state, progress)
        with complete_directory(request.out) as folder:
            progress("export", 0, 1)
            manifest = _export(job, trainer, text, student, folder, draw)
            progress("export", 1, 1)
            progress("verify", 0, 1)
            verify(folder)
            (folder / PROBE_NAME).unlink()
            progress("verify", 1, 1)
    return manifest


def _check(request: RecoveryRequest) -> _Job:
    """Refuses what can be refused before anything is loaded. Raises ConfigError or CheckpointError."""
    method = method_named(request.method)
    require_free_name(request.out)
    if not is_variant(request.variant):
        raise ConfigError(f"{request.variant} has no {MANIFEST_NAME}. Give a folder that compress wrote.")
    source, parent = open_source(str(request.variant)), load_variant(request.variant)
    if parent.sparsity is not None:
        raise ConfigError(
            f"{parent.name} has {parent.sparsity.zeros:,} masked weights, which training would fill. "
            "Recover a variant without a mask, or mask the recovered one."
        )
    config = method.configured(
        source.config["hidden_size"],
        learning_rate=request.learning_rate,
        rank=request.rank,
        trainable=request.trainable,
    )
    _check_numbers(request, config.learning_rate)
    corpus = read_corpus(request.text)
    _check_text(request, parent, corpus)
    teacher = _open_teacher(request, method, parent)
    return _Job(
        request=request, method=method, config=config, source=source, parent=parent, corpus=corpus, teacher=teacher
    )


def _check_numbers(request: RecoveryRequest, learning_rate: float) -> None:
    require_device(request.device)
    if min(request.tokens, request.batch_tokens, learning_rate) <= 0 or request.window_tokens < 2:
        raise ConfigError(
            f"{request.tokens} tokens in batches of {request.batch_tokens} at learning rate {learning_rate:g} train "
            "nothing. All three must be above 0."
        )
    if not 0 < request.held_out_share < 1:
        raise ConfigError(f"held-out share is {request.held_out_share:g}; it must be between 0 and 1, like 0.05.")


def _check_text(request: RecoveryRequest, parent: VariantManifest, corpus: TextCorpus) -> None:
    measured = {record.corpus_sha256 for record in parent.quality}
    if corpus.sha256 in measured and not request.allow_evaluated_text:
        raise ConfigError(
            f"{corpus.name} is the text that the quality of {parent.name} was measured on; training on it would make "
            "that measure worthless. Give other text or --allow-evaluated-text."
        )


def _open_teacher(request: RecoveryRequest, method: RecoveryMethod, parent: VariantManifest) -> Source | None:
    """The dense model of a method that needs one. Raises ConfigError if it is missing or another model."""
    if not method.needs_teacher:
        return None
    if request.teacher is None:
        raise ConfigError(f"Recovery method {method.name} learns from the dense model. Give --teacher DIR.")
    teacher = open_source(str(request.teacher))
    if teacher.sha256 != parent.base.sha256:
        raise ConfigError(
            f"{request.teacher} is not the model that {parent.name} was pruned from: its weights have SHA-256 "
            f"{teacher.sha256[:12]}, the manifest's base {parent.base.name} has {parent.base.sha256[:12]}."
        )
    return teacher


def _prepare_text(job: _Job) -> TrainingText:
    request, config = job.request, job.source.config
    context = int(config["max_position_embeddings"])
    if request.window_tokens > context:
        raise ConfigError(f"windows of {request.window_tokens} tokens exceed the model's context of {context}.")
    return prepare_text(
        job.corpus,
        load_tokenizer(job.source.folder),
        window_tokens=request.window_tokens,
        held_out_share=request.held_out_share,
        held_out_tokens=request.held_out_tokens,
        vocabulary=int(config["vocab_size"]),
    )


def _train(job: _Job, patient: Patient, text: TrainingText, folder: StateFolder, progress: Progress) -> Trainer:
    trainer = Trainer(
        model=patient.student.view.model,
        held_out=text.held_out,
        schedule=job.schedule,
        folder=folder,
        state=folder.load(),
        progress=progress,
    )
    trainer.train(job.method.stages(job.config, patient))
    return trainer


def _export(
    job: _Job, trainer: Trainer, text: TrainingText, student: ShapedModel, folder: Path, draw: Drawer
) -> VariantManifest:
    write_checkpoint(student.view, job.source.folder, folder)
    curve = LossCurve(
        method=job.method.name,
        objective=job.method.objective,
        corpus=job.corpus.name,
        held_out_documents=text.held_out_documents,
        held_out_tokens=sum(window.shape[1] - 1 for window in text.held_out),
        points=tuple(trainer.state.points),
    )
    curve.save(folder / CURVE_NAME)
    draw(folder)
    manifest = job.parent.model_copy(
        update={
            "name": job.request.out.name,
            "recovery": _reference(job, trainer, curve),
            "quality": (),
            "versions": versions_of(_VERSIONED),
            "checksums": checksums_of(folder),
        }
    )
    manifest.save(folder / MANIFEST_NAME)
    return manifest


def _reference(job: _Job, trainer: Trainer, curve: LossCurve) -> RecoveryRef:
    """Reads the loss of the weights as they are stored: export has rounded them."""
    schedule, last = job.schedule, curve.points[-1]
    return RecoveryRef(
        method=job.method.name,
        config=resolved(job.config),
        tokens=schedule.steps * schedule.step_tokens,
        stages=trainer.state.stage,
        steps=last.step,
        batch_tokens=schedule.step_tokens,
        window_tokens=schedule.window_tokens,
        seed=schedule.seed,
        corpus=job.corpus.name,
        corpus_sha256=job.corpus.sha256,
        held_out_documents=curve.held_out_documents,
        held_out_tokens=curve.held_out_tokens,
        loss_before_nats=curve.points[0].held_out_loss_nats,
        loss_after_nats=trainer.held_out_loss(),
        training_s=trainer.state.elapsed_s,
        peak_memory_bytes=peak_bytes(),
        parent=job.parent.name,
        parent_fingerprint=job.parent.fingerprint,
        earlier=job.parent.recovery,
    )
