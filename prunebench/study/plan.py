"""Which cells does a study have, and which of them are still to be measured?

Pure but for reading texts: a cell's name holds a hash over everything that decides its result, the texts' content
among it. A study that is changed therefore keeps the cells that the change does not touch, and measures the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.files import sha256_of_file
from artifacts.study import (
    DENSE,
    NO_RECOVERY,
    Coordinates,
    PaperSpeed,
    ServingSpeed,
    Speed,
    StudyFile,
    StudyMethod,
    StudyModel,
    StudyRecovery,
    StudyTask,
    StudyText,
)
from artifacts.unfinished import key_of
from prunebench.study.demo_corpus import PREFIX, QUESTIONS, demo_text, line_end_questions

_HASH_DIGITS = 8
T = TypeVar("T")


class CellPlan(Document):
    """One cell: where it is, and all that is needed to measure it. `sources` are the SHA-256 of its texts."""

    cell: str
    at: Coordinates
    model: StudyModel
    method: StudyMethod | None = None
    recovery: StudyRecovery | None = None
    calibration: str | None = None
    calibration_tokens: int = 0
    training: str | None = None
    texts: tuple[StudyText, ...] = ()
    tasks: tuple[StudyTask, ...] = ()
    speeds: tuple[Speed, ...] = ()
    round: int | None = None
    device: str = "cpu"
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def group(self) -> str:
        """Cells of one group begin with the same compressed checkpoint."""
        decisive = [self.model, self.method, self.at.ratio, self.at.seed, self.calibration, self.calibration_tokens]
        shown = [
            each.model_dump(mode="json", exclude_defaults=True) if isinstance(each, Document) else each
            for each in decisive
        ]
        return key_of([shown, self.sources.get(self.calibration or "")])

    @property
    def is_pruned(self) -> bool:
        """Whether a checkpoint has to be made; the dense model and its quantised twin are there already."""
        return self.method is not None and self.method.method is not None


def expand(study: StudyFile, folder: Path, *, needs_texts: bool = True) -> tuple[CellPlan, ...]:
    """Every cell once, in the order of work: round by round what must not wait, with the dense cells it needs; then
    model by model the dense cell, and method by method, small budgets first.

    `folder` is where the study's paths start. Raises ConfigError for a text that is missing, if texts are needed.
    """
    sources = {text: _sha256(text, folder, needs_texts) for text in _texts_of(study)}
    plans = [_named(plan, sources) for model in study.models for plan in _of_model(study, model)]
    rounds = [(plan.round, plan.at.model) for plan in plans if plan.round is not None]
    needed = {model: min(number for number, of in rounds if of == model) for _, model in rounds}
    plans.sort(key=lambda plan: (needed.get(plan.at.model) if plan.at.is_dense else plan.round) or inf)
    return tuple({plan.cell: plan for plan in plans}.values())


def _of_model(study: StudyFile, model: StudyModel) -> Iterator[CellPlan]:
    common = {"texts": study.texts, "tasks": study.tasks, "device": study.device}
    plans = [CellPlan(cell="", at=Coordinates(model=model.name, method=DENSE, ratio=0.0), model=model)]
    for method in study.methods:
        if method.models is None or model.name in method.models:
            plans += _of_method(study, model, method)
    yield from (plan if plan.round is not None else plan.model_copy(update=common) for plan in plans)


def _of_method(study: StudyFile, model: StudyModel, method: StudyMethod) -> Iterator[CellPlan]:
    seeds = _or(method.seeds, study.seeds)
    for seed, ratio in product(seeds, _or(method.ratios, study.ratios)):
        for name, text in _calibrations(study, method):
            at = Coordinates(
                model=model.name,
                method=method.name,
                ratio=ratio,
                allocation=method.allocation,
                repair=method.repair,
                calibration=name,
                seed=seed,
            )
            bare = CellPlan(
                cell="",
                at=at,
                model=model,
                method=method,
                device=study.device,
                calibration=text,
                calibration_tokens=study.calibration_tokens if method.calibrated else 0,
            )
            speeds = _speeds(study, at) if seed == seeds[0] else ()
            hurried = {speed: number for speed in speeds if (number := round_of(speed)) is not None}
            for number in sorted(set(hurried.values())):
                mine = tuple(speed for speed in hurried if hurried[speed] == number)
                yield bare.model_copy(update={"speeds": mine, "round": number})
            yield bare.model_copy(update={"speeds": tuple(speed for speed in speeds if speed not in hurried)})
            yield from _recovered(study, bare)


def _calibrations(study: StudyFile, method: StudyMethod) -> tuple[tuple[str | None, str | None], ...]:
    """(name, text) of each that the method is to look at; a study's only text has no name."""
    if not method.calibrated:
        return ((None, None),)
    if not study.calibrations:
        return ((None, study.calibration),)
    return tuple((one.name, one.source) for one in study.calibrations if _within(one.name, method.calibrations))


def _recovered(study: StudyFile, bare: CellPlan) -> Iterator[CellPlan]:
    at = bare.at
    for recovery in study.recoveries:
        wanted = ((recovery.ratios, at.ratio), (recovery.seeds, at.seed), (recovery.methods, at.method))
        limited = (*wanted, (recovery.models, at.model))
        if not bare.is_pruned or not all(_within(own, asked) for asked, own in limited):
            continue
        for tokens in sorted(recovery.tokens):
            there = at.model_copy(update={"recovery": recovery.method, "recovery_tokens": tokens})
            settings = recovery.model_copy(update={"ratios": None, "seeds": None, "methods": None, "models": None})
            one = settings.model_copy(update={"tokens": (tokens,)})
            yield bare.model_copy(update={"at": there, "recovery": one, "training": study.training})


def _speeds(study: StudyFile, at: Coordinates) -> tuple[Speed, ...]:
    """Those that are measured at this cell, without what narrows them: changing that leaves other cells alone."""
    chosen = [
        speed
        for speed in study.speeds
        if _within(at.method, speed.methods)
        and _within(at.ratio, speed.ratios)
        and _within(at.model, speed.models if isinstance(speed, ServingSpeed) else None)
    ]
    wide = {"methods": None, "ratios": None}
    return tuple(
        speed.model_copy(update=wide if isinstance(speed, PaperSpeed) else wide | {"models": None}) for speed in chosen
    )


def round_of(speed: Speed) -> int | None:
    return speed.round if isinstance(speed, ServingSpeed) else None


def _within(own: T, asked: tuple[T, ...] | None) -> bool:
    return asked is None or own in asked


def _named(plan: CellPlan, sources: dict[str, str]) -> CellPlan:
    used = (plan.calibration, plan.training, *(text.text for text in plan.texts), *(task.source for task in plan.tasks))
    plan = plan.model_copy(update={"sources": {text: sources[text] for text in used if text is not None}})
    method = (
        None
        if plan.method is None
        else plan.method.model_dump(
            mode="json", exclude={"ratios", "seeds", "models", "calibrations"}, exclude_defaults=True
        )
    )
    # Without defaults: an option that is added later must not rename the cells that do not use it.
    decisive = plan.model_dump(mode="json", exclude={"cell", "method"}, exclude_defaults=True) | {"method": method}
    digest = key_of(decisive)[:_HASH_DIGITS]
    return plan.model_copy(
        update={"cell": f"{_slug(plan.at)}{'' if plan.round is None else f'.round{plan.round}'}-{digest}"}
    )


def _slug(at: Coordinates) -> str:
    recovery = "" if at.recovery == NO_RECOVERY else f".{at.recovery}-{at.recovery_tokens}"
    calibration = "" if at.calibration is None else f".{at.calibration}"
    return f"{at.model}.{at.method}.r{at.ratio:g}{calibration}{recovery}.s{at.seed}"


def _texts_of(study: StudyFile) -> Iterable[str]:
    calibrations = [study.calibration, *(one.source for one in study.calibrations)]
    named = [*calibrations, study.training, *(text.text for text in study.texts)]
    return dict.fromkeys(name for name in (*named, *(task.source for task in study.tasks)) if name is not None)


def _sha256(text: str, folder: Path, must_be_there: bool) -> str:
    """Of a file's content; of the demo's text likewise; of the name of what others provide."""
    if text == QUESTIONS:
        return hashlib.sha256(line_end_questions().encode()).hexdigest()
    if text.startswith(PREFIX):
        return hashlib.sha256(demo_text(text).encode()).hexdigest()
    path = folder / text
    if path.is_file():
        return sha256_of_file(path)
    if must_be_there and Path(text).suffix:
        raise ConfigError(f"{path} does not exist, and the study names it as a text. Give a file, or `demo:held_out`.")
    return hashlib.sha256(text.encode()).hexdigest()


def _or(own: tuple[T, ...] | None, shared: tuple[T, ...]) -> tuple[T, ...]:
    return shared if own is None else own


def same_engines(speeds: Sequence[ServingSpeed]) -> list[list[ServingSpeed]]:
    """Groups whose engines are run alike, in the order in which they first appear."""
    groups: dict[tuple[object, ...], list[ServingSpeed]] = {}
    for speed in speeds:
        engines = (speed.engine, speed.engine_flags, speed.fairness, speed.kv_cache_bytes, speed.max_model_len)
        groups.setdefault(engines, []).append(speed)
    return list(groups.values())
