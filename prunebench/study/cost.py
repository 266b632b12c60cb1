"""How long will the cells that are left take?

Every stage of a cell has a rough price from counted work and an assumed machine. As soon as cells have been measured,
their times correct it: by the median of measured over assumed, of the same stage with the same model and method if
there are any, else of the same stage with the same model, else of the same stage at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from artifacts.document import Document
from artifacts.lengths import mean_tokens
from artifacts.study import DEMO, CellRecord, PaperSpeed, ServingSpeed, StudyModel
from prunebench.study.plan import CellPlan, same_engines

# Floating-point operations a second of one worker that a study may count on, and what a stage costs whatever its size.
FLOPS_PER_S = {"cpu": 3e10, "cuda": 1e14}
STAGE_S = {"cpu": 1.0, "cuda": 5.0}
HARDWARE_S = {"cpu": 2.0, "cuda": 5.0}
ENGINES_START_S = {"cpu": 60.0, "cuda": 90.0}
_UNKNOWN_PARAMS = 1_000_000_000
_WHOLE_TEXT_TOKENS = 250_000
_QUESTIONS, _QUESTION_TOKENS = 1000, 400
# Of one forward pass over a token: training is forward and backward, a calibrated method looks and compares twice.
_TRAINING, _TEACHING, _CALIBRATING = 3, 4, 4
_ARMS = 3
_BOOTSTRAP_S = 15.0
_TOKEN_S = 0.01


class CellCost(Document):
    """An estimate in seconds by stage; `measured` says that every stage's price was corrected by measured cells."""

    cell: str
    stages_s: dict[str, float]
    measured: bool

    @property
    def total_s(self) -> float:
        return sum(self.stages_s.values())


@dataclass(frozen=True, slots=True)
class Prices:
    """`params` are by model; `factors` by stage, model and method, where the last two may be empty: for any."""

    params: Mapping[str, int]
    factors: Mapping[tuple[str, str, str], float] = field(default_factory=dict)

    def of(self, plan: CellPlan) -> CellCost:
        assumed = assumed_s(plan, self.params[plan.model.name])
        corrected, known = {}, bool(assumed)
        for stage, seconds in assumed.items():
            factor = self._factor(stage, plan)
            known = known and factor is not None
            corrected[stage] = seconds * (1.0 if factor is None else factor)
        return CellCost(cell=plan.cell, stages_s=corrected, measured=known)

    def total_s(self, plans: Iterable[CellPlan]) -> float:
        return sum(self.of(plan).total_s for plan in plans)

    def _factor(self, stage: str, plan: CellPlan) -> float | None:
        keys = ((stage, plan.at.model, plan.at.method), (stage, plan.at.model, ""), (stage, "", ""))
        return next((self.factors[key] for key in keys if key in self.factors), None)


def learn(params: Mapping[str, int], plans: Iterable[CellPlan], records: Iterable[CellRecord]) -> Prices:
    """Prices corrected by the cells that are done."""
    planned = {plan.cell: plan for plan in plans}
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        plan = planned.get(record.cell)
        if plan is None or record.status != "done":
            continue
        for stage, seconds in assumed_s(plan, params[plan.model.name]).items():
            if stage in record.stages_s:
                for key in ((stage, record.model, record.method), (stage, record.model, ""), (stage, "", "")):
                    ratios.setdefault(key, []).append(record.stages_s[stage] / seconds)
    return Prices(params, {key: median(found) for key, found in ratios.items()})


def assumed_s(plan: CellPlan, params: int) -> dict[str, float]:
    """Seconds by stage, named as `CellRecord.stages_s` names them. A shared checkpoint is counted where it is made."""
    forward_s, least_s = 2 * params / FLOPS_PER_S[plan.device], STAGE_S[plan.device]
    stages: dict[str, float] = {}
    if plan.is_pruned and plan.recovery is None and plan.model.config is None:
        stages["compress"] = least_s + plan.calibration_tokens * _CALIBRATING * forward_s
    if plan.recovery is not None:
        times = _TEACHING if plan.recovery.method in ("distillation", "block_local") else _TRAINING
        stages["recover"] = least_s + plan.at.recovery_tokens * times * forward_s
    if plan.texts:
        tokens = sum((text.max_tokens or _WHOLE_TEXT_TOKENS) * (2 if text.divergence else 1) for text in plan.texts)
        stages["evaluate"] = least_s + tokens * forward_s
    if plan.tasks:
        asked = sum(task.limit or _QUESTIONS for task in plan.tasks)
        stages["tasks"] = least_s + asked * _QUESTION_TOKENS * forward_s
    papers = [speed for speed in plan.speeds if isinstance(speed, PaperSpeed)]
    serving = [speed for speed in plan.speeds if isinstance(speed, ServingSpeed)]
    if papers:
        stages["paper"] = sum(least_s + 2 * (p.pairs + 1) * p.batch * p.tokens * forward_s for p in papers)
    if serving:
        stages["hardware"] = HARDWARE_S[plan.device]
        starts_s = len(same_engines(serving)) * ENGINES_START_S[plan.device]
        stages["serving"] = starts_s + sum(map(_levels_s, serving))
    return stages


def _levels_s(speed: ServingSpeed) -> float:
    """Behind each window the requests under way are awaited."""
    drain_s = (mean_tokens(speed.output_tokens) or 0) * _TOKEN_S
    return len(speed.levels) * (_ARMS * speed.blocks * (speed.window_s + speed.warmup_s + drain_s) + _BOOTSTRAP_S)


def known_params(models: Iterable[StudyModel], folder: Path, records: Iterable[CellRecord]) -> dict[str, int]:
    """By model: as measured, as the study says, as the files or the shape say, else a billion."""
    measured = {record.model: record.base_params for record in records if record.base_params}
    return {model.name: measured.get(model.name) or _params_of(model, folder) for model in models}


def _params_of(model: StudyModel, folder: Path) -> int:
    if model.params is not None:
        return model.params
    if model.config is not None:
        from compressors.drawn_shape import dense_parameters

        return dense_parameters(model.config)
    from compressors.footprint import footprint_of_folder
    from prunebench.demo_plan import MODEL_DIR

    local = MODEL_DIR if model.source == DEMO else folder / str(model.source)
    return footprint_of_folder(local, tied=True).params_total if local.is_dir() else _UNKNOWN_PARAMS
