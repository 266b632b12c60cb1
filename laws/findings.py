"""From run directories to what the report says: pure data, written as `report.json` beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from artifacts.campaign import Campaign
from artifacts.capacity import CapacitySearch
from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.provenance import Provenance
from artifacts.run import ArmSummary, Estimate, Gate, RunManifest, Workload
from artifacts.sweep import Sweep
from artifacts.variant import QualityRecord, VariantManifest
from laws.ceiling import CeilingRow, ceiling_rows, served_manifests
from laws.distributions import Distribution, distributions_of
from laws.energy import BoardRow, EnergyRow, board_rows, energy_rows
from laws.flow import FlowRow, flow_rows
from laws.roofline import Hardware
from laws.sources import SourcedRun, Sources, read_sources

# The pairs that make up a speed-up, best first for headlines.
SPEEDUPS = {
    "speedup_output_tokens_per_s": "tokens/s",
    "speedup_tpot_p50": "TPOT p50",
    "speedup_ttft_p50": "TTFT p50",
    "speedup_e2e_p50": "E2E p50",
}
HEADLINE = next(iter(SPEEDUPS))


class LevelFinding(Document):
    """One run. A failed gate of a valid level is an overload that a sweep was made to show."""

    folder: str
    label: str
    loop: Literal["closed", "open"]
    load_value: float
    valid: bool
    gates: tuple[Gate, ...]
    arms: tuple[ArmSummary, ...]
    speedups: dict[str, dict[str, Estimate]]
    block_speedups: dict[str, tuple[float, ...]]
    control: dict[str, Estimate] = Field(default_factory=dict, description="the reference over itself, if measured")
    control_blocks: tuple[float, ...] = ()
    distributions: dict[str, dict[str, Distribution]] = Field(
        default_factory=dict, description="by model and quantity (ttft, tpot), from the request records"
    )


class Findings(Document):
    """Everything on the page, and the content of the JSON beside it."""

    schema_version: Literal[1, 2] = 2
    reference: str | None
    models: tuple[str, ...]
    variants: dict[str, VariantManifest]
    levels: tuple[LevelFinding, ...]
    workload: Workload
    ceilings: tuple[CeilingRow, ...]
    hardware: Hardware | None
    provenance: Provenance
    commands: tuple[str, ...]
    flows: tuple[FlowRow, ...] = ()
    energy: tuple[EnergyRow, ...] = ()
    boards: tuple[BoardRow, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    searches: tuple[CapacitySearch, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @property
    def valid(self) -> bool:
        """No gate failed that spoils a number, and no A/A control differs."""
        controls_held = all(campaign.control_held for campaign in self.campaigns)
        return controls_held and all(level.valid for level in self.levels)

    @property
    def headline_level(self) -> LevelFinding | None:
        """The highest level that a comparison judged; without one, the highest there is."""
        judged = {level.level.label for campaign in self.campaigns for level in campaign.levels}
        return next(iter([level for level in self.levels if level.label in judged][-1:] or self.levels[-1:]), None)


def gather_findings(folders: list[Path], hardware: Hardware | None) -> Findings:
    """Raises ConfigError if a folder holds nothing to report, or the runs do not belong together."""
    sources = read_sources(folders)
    _require_one_experiment(sources.runs)
    runs = _labelled(sources.runs)
    runs.sort(key=lambda pair: (pair[1].manifest.level.loop, _load_value(pair[1].manifest)))
    variants: dict[str, VariantManifest] = {}
    for manifest in (*(run.manifest for run in sources.runs), *sources.looked_at):
        variants |= served_manifests(manifest.served)
    first: RunManifest | CapacitySearch = sources.runs[0].manifest if sources.runs else sources.searches[0]
    return Findings(
        reference=_reference(sources),
        models=_models(sources),
        variants=variants,
        levels=tuple(_level_finding(label, run) for label, run in runs),
        workload=first.workload,
        ceilings=_ceilings(runs, variants, hardware) if hardware else (),
        hardware=hardware,
        provenance=first.provenance,
        commands=sources.commands,
        flows=tuple(row for label, run in runs for row in flow_rows(label, run.manifest)),
        energy=tuple(row for label, run in runs for row in energy_rows(label, run.manifest)),
        boards=tuple(row for label, run in runs for row in board_rows(label, run.manifest)),
        campaigns=sources.campaigns,
        searches=sources.searches,
        sweeps=sources.sweeps,
    )


def first_arms(run: RunManifest) -> tuple[ArmSummary, ...]:
    """One arm per model: a control is a further arm of the reference and no model of its own."""
    first: dict[str, ArmSummary] = {}
    for arm in run.arms:
        first.setdefault(arm.model, arm)
    return tuple(first.values())


def quality_value(manifest: VariantManifest, metric: str) -> float | None:
    """The last recorded value of a metric of held-out text, or None."""
    values = [record.value for record in manifest.quality if record.metric == metric and not record.task]
    return values[-1] if values else None


def quality_protocol(variants: dict[str, VariantManifest]) -> QualityRecord | None:
    """Any record of a text: all share corpus and length, which is checked where they are drawn together."""
    return next((record for manifest in variants.values() for record in manifest.quality if not record.task), None)


def task_records(manifest: VariantManifest) -> tuple[QualityRecord, ...]:
    """What the harness's tasks gave, in the order of measuring."""
    return tuple(record for record in manifest.quality if record.task)


def _reference(sources: Sources) -> str | None:
    """What ratios are to: the runs' reference, or a search's first variant."""
    if sources.runs:
        return sources.runs[0].manifest.against
    return next((ratio.against for search in sources.searches for ratio in search.ratios), None)


def _models(sources: Sources) -> tuple[str, ...]:
    """The runs' models, then what only searches have."""
    of_runs = [arm.model for run in sources.runs[:1] for arm in first_arms(run.manifest)]
    of_searches = [variant.model for search in sources.searches for variant in search.variants]
    return tuple(dict.fromkeys((*of_runs, *of_searches)))


def _labelled(runs: Sequence[SourcedRun]) -> list[tuple[str, SourcedRun]]:
    """With the labels of their levels; where two have the same, the later one's also names its folder."""
    found: list[tuple[str, SourcedRun]] = []
    seen: set[str] = set()
    for run in sorted(runs, key=lambda run: not run.compared):
        label = run.manifest.level.label
        found.append((f"{label} ({run.source})" if label in seen else label, run))
        seen.add(label)
    return found


def _require_one_experiment(runs: Sequence[SourcedRun]) -> None:
    for run in runs[1:]:
        if _experiment(run.manifest) != _experiment(runs[0].manifest):
            raise ConfigError(
                f"{run.folder} and {runs[0].folder} measured different models or workloads. "
                "Give runs that differ in their load level alone."
            )


def _experiment(run: RunManifest) -> tuple[Any, ...]:
    """Which models, however many times (a control is the reference again), over what, doing what."""
    return set(run.models) - {run.against}, run.against, _work(run)


def _work(run: RunManifest) -> tuple[Any, ...]:
    """What each request asks for; the seed may differ, and what a file's name is."""
    asked = run.workload
    trace = run.trace and (run.trace.sha256, run.trace.length_scale)
    chat = asked.chat and asked.chat.sha256
    return asked.prompt_tokens, asked.output_tokens, asked.prefix, asked.natural_ends, chat, trace


def _load_value(run: RunManifest) -> float:
    return float(run.level.concurrency or run.level.rate_per_s or 0)


def _level_finding(label: str, sourced: SourcedRun) -> LevelFinding:
    run = sourced.manifest
    control = next((c for c in run.comparisons if c.is_control), None)
    return LevelFinding(
        folder=sourced.name,
        label=label,
        loop=run.level.loop,
        load_value=_load_value(run),
        valid=sourced.valid,
        gates=run.gates,
        arms=first_arms(run),
        # A model that failed in every block has no ratio, and with that no speed-up.
        speedups={c.model: c.ratios for c in run.comparisons if HEADLINE in c.ratios and not c.is_control},
        block_speedups={c.model: c.block_ratios.get(HEADLINE, ()) for c in run.comparisons if not c.is_control},
        control=control.ratios if control else {},
        control_blocks=control.block_ratios.get(HEADLINE, ()) if control else (),
        distributions=distributions_of(sourced.folder, run),
    )


def _ceilings(
    runs: Sequence[tuple[str, SourcedRun]], variants: dict[str, VariantManifest], hardware: Hardware
) -> tuple[CeilingRow, ...]:
    return tuple(
        row.model_copy(update={"level": label})
        for label, run in runs
        for row in ceiling_rows(run.manifest, first_arms(run.manifest), variants, hardware)
    )
