"""A comparison at several levels as one experiment: one family of hypotheses, an A/A control in every run, resumable.

The control is a further arm of the reference in the same interleaved blocks, so it sees the same minutes. A level that
was finished before a kill is not measured again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.campaign import CAMPAIGN_NAME, Campaign, LevelResult, Question
from artifacts.errors import ConfigError
from artifacts.files import complete_directory
from artifacts.progress import Progress, silent
from artifacts.run import Design, Estimate, Level, RunManifest, Workload
from artifacts.unfinished import key_of, remove_working_folder, working_folder
from loadtest.endpoint import Endpoint, require_models
from loadtest.lengths import longest_request_tokens
from loadtest.levels import level_folder, measured_already
from loadtest.mix import models_of
from loadtest.pairing import SPEEDUPS
from loadtest.player import terminate_like_interrupt
from loadtest.runner import LoadTestRequest, make_plan, run_load_test
from loadtest.verdicts import holm_adjusted, verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRequest:
    """What to compare. `window_s` is the measured time of one arm in one block; `design` says how many blocks.

    `any_url` lets a killed campaign go on with levels that were measured behind another URL: of a server that is
    started for it, on whatever port is free.
    """

    url: str
    models: tuple[str, ...]
    against: str
    levels: tuple[Level, ...]
    workload: Workload
    design: Design
    window_s: float
    out: Path
    control: bool = True
    warmup_s: float = 1.0
    api_key: str | None = None
    timeout_s: float = 120.0
    token_range: tuple[int, int] = (3, 500)
    any_url: bool = False

    @property
    def measured_s(self) -> float:
        """Load time of all arms, levels and blocks, the lead-ins included."""
        arms = 1 + len(self.models) + self.control
        return len(self.levels) * self.design.blocks * arms * (self.window_s + self.warmup_s)


def run_campaign(request: CampaignRequest, progress: Progress = silent) -> Campaign:
    """Measures what is missing and writes `request.out`. Not valid if a gate failed or the control did not hold.

    A killed campaign goes on with its finished levels when the same is asked again. Raises what `run_load_test` does,
    and ConfigError for no level, or the same one twice; then finished levels stay for the next attempt.
    """
    fingerprints = _checked(request)
    with terminate_like_interrupt(), working_folder(request.out, _key(request)) as folder:
        tests = [_load_test(request, level, folder) for level in request.levels]
        runs = [_measured(test, fingerprints, progress) for test in tests]
        campaign = conclude(request, runs)
        with complete_directory(request.out) as final:
            for test in tests:
                shutil.copytree(test.out, final / test.out.name)
            campaign.save(final / CAMPAIGN_NAME)
        remove_working_folder(folder)
    return campaign


def conclude(request: CampaignRequest, runs: Sequence[RunManifest]) -> Campaign:
    """The document from the runs, one per level in order.

    All speed-ups of all levels are one family, corrected by Holm. The controls are another: they must not differ.
    """
    return Campaign(
        url=runs[0].url,
        models=request.models,
        against=request.against,
        workload=request.workload,
        design=request.design,
        levels=tuple(_level_result(run) for run in runs),
        questions=_questions(runs, of_control=False),
        controls=_questions(runs, of_control=True),
        provenance=runs[0].provenance,
    )


def _level_result(run: RunManifest) -> LevelResult:
    return LevelResult(
        folder=level_folder(run.level),
        level=run.level,
        valid=run.valid,
        failed_gates=tuple(gate for gate in run.gates if not gate.passed),
        comparisons=run.comparisons,
    )


def _questions(runs: Sequence[RunManifest], *, of_control: bool) -> tuple[Question, ...]:
    asked = [
        (run, comparison.model, measure, comparison.ratios[measure])
        for run in runs
        for comparison in run.comparisons
        if comparison.is_control == of_control
        for measure in SPEEDUPS
        if measure in comparison.ratios
    ]
    tested = [i for i, (_, _, _, estimate) in enumerate(asked) if estimate.p_value is not None]
    p_values = [p for i in tested if (p := asked[i][3].p_value) is not None]
    adjusted = dict(zip(tested, holm_adjusted(p_values), strict=True))
    questions = []
    for i, (run, model, measure, estimate) in enumerate(asked):
        control = None if of_control else _control(run, measure)
        questions.append(
            Question(
                level=run.level.label,
                model=model,
                measure=measure,
                estimate=estimate,
                p_adjusted=adjusted.get(i),
                control=control,
                verdict=verdict(estimate, adjusted.get(i), control),
            )
        )
    return tuple(questions)


def _control(run: RunManifest, measure: str) -> Estimate | None:
    return next((c.ratios[measure] for c in run.comparisons if c.is_control and measure in c.ratios), None)


def _checked(request: CampaignRequest) -> dict[str, str | None]:
    """Refuses what cannot be measured before anything is written; returns the fingerprints of what is served."""
    labels = [level.label for level in request.levels]
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"levels must be one or more different ones, not {', '.join(labels) or 'none'}.")
    if request.against in request.models:
        raise ConfigError(f"{request.against!r} is the reference and cannot be compared as well. The control is added.")
    served = Endpoint(request.url, request.api_key).models()
    for level in request.levels:
        plan = make_plan(_load_test(request, level, request.out))
        require_models(served, models_of(plan.arms), longest_request_tokens(plan.workload))
    return {model: entry.get("prunebench", {}).get("fingerprint") for model, entry in served.items()}


def _key(request: CampaignRequest) -> str:
    asked = asdict(request)
    del asked["api_key"], asked["out"]  # the one is nobody's business, the other stands in the folder's name
    if asked.pop("any_url"):
        del asked["url"]
    return key_of(asked)


def _load_test(request: CampaignRequest, level: Level, folder: Path) -> LoadTestRequest:
    return LoadTestRequest(
        url=request.url,
        models=(*request.models, request.against) if request.control else request.models,
        against=request.against,
        level=level,
        workload=request.workload,
        duration_s=request.window_s * request.design.blocks,
        out=folder / level_folder(level),
        blocks=request.design.blocks,
        warmup_s=request.warmup_s,
        api_key=request.api_key,
        timeout_s=request.timeout_s,
        token_range=request.token_range,
        design=request.design,
    )


def _measured(test: LoadTestRequest, fingerprints: dict[str, str | None], progress: Progress) -> RunManifest:
    found = measured_already(test, fingerprints)
    if found is None:
        shutil.rmtree(test.out, ignore_errors=True)
        found = run_load_test(test, progress)
    return found
