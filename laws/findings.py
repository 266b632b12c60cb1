"""From run directories to what the report says: pure data, written as `report.json` beside the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.lengths import mean_tokens
from artifacts.provenance import Provenance
from artifacts.run import ArmSummary, Estimate, Gate, RunManifest, Workload, load_run
from artifacts.variant import QualityRecord, VariantManifest
from laws.roofline import Hardware, decode_ceiling

# The pairs that make up a speed-up, best first for headlines.
SPEEDUPS = {
    "speedup_output_tokens_per_s": "tokens/s",
    "speedup_tpot_p50": "TPOT p50",
    "speedup_ttft_p50": "TTFT p50",
    "speedup_e2e_p50": "E2E p50",
}


class CeilingRow(Document):
    """One arm at one level beside the roofline's bound."""

    model: str
    level: str
    batch: int
    ceiling_tokens_per_s: float
    measured_tokens_per_s: float
    reached_ratio: float
    bound_by: str
    predicted_speedup: float | None


class LevelFinding(Document):
    """One run."""

    folder: str
    label: str
    loop: Literal["closed", "open"]
    load_value: float
    valid: bool
    gates: tuple[Gate, ...]
    arms: tuple[ArmSummary, ...]
    speedups: dict[str, dict[str, Estimate]]
    block_speedups: dict[str, tuple[float, ...]]


class Findings(Document):
    """Everything on the page."""

    schema_version: Literal[1] = 1
    reference: str | None
    models: tuple[str, ...]
    variants: dict[str, VariantManifest]
    levels: tuple[LevelFinding, ...]
    workload: Workload
    ceilings: tuple[CeilingRow, ...]
    hardware: Hardware | None
    provenance: Provenance
    commands: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return all(level.valid for level in self.levels)


def gather_findings(folders: list[Path], hardware: Hardware | None) -> Findings:
    """Raises ConfigError if a folder holds no run, or the runs do not belong together."""
    runs = [(folder, load_run(folder)) for folder in folders]
    _require_one_experiment(runs)
    first = runs[0][1]
    variants = _served_manifests([run for _, run in runs])
    levels = tuple(sorted((_level_finding(f, r) for f, r in runs), key=lambda level: (level.loop, level.load_value)))
    return Findings(
        reference=first.against,
        models=tuple(arm.model for arm in first_arms(first)),
        variants=variants,
        levels=levels,
        workload=first.workload,
        ceilings=_ceilings([run for _, run in runs], variants, hardware) if hardware else (),
        hardware=hardware,
        provenance=first.provenance,
        commands=tuple(_replay_command(folder, run) for folder, run in runs),
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


def _require_one_experiment(runs: list[tuple[Path, RunManifest]]) -> None:
    first_folder, first = runs[0]
    for folder, run in runs[1:]:
        same = run.models == first.models and run.against == first.against
        if not (same and _work(run) == _work(first)):
            raise ConfigError(
                f"{folder} and {first_folder} measured different models or workloads. "
                "Give runs that differ in their load level alone."
            )


def _work(run: RunManifest) -> tuple[Any, ...]:
    """What each request asks for; the seed may differ, and what a file's name is."""
    asked = run.workload
    trace = run.trace and (run.trace.sha256, run.trace.length_scale)
    chat = asked.chat and asked.chat.sha256
    return asked.prompt_tokens, asked.output_tokens, asked.prefix, asked.natural_ends, chat, trace


def _served_manifests(runs: list[RunManifest]) -> dict[str, VariantManifest]:
    found: dict[str, VariantManifest] = {}
    for run in runs:
        for name, entry in run.served.items():
            raw = _manifest_of(entry)
            if raw is not None:
                found[name] = VariantManifest.parse(raw, f"the served manifest of {name}")
    return found


def _manifest_of(entry: dict[str, Any]) -> object | None:
    extra = entry.get("prunebench")
    return extra.get("manifest") if isinstance(extra, dict) else None


def _level_finding(folder: Path, run: RunManifest) -> LevelFinding:
    loads = (run.level.concurrency, run.level.rate_per_s)
    headline = next(iter(SPEEDUPS))
    return LevelFinding(
        folder=folder.name,
        label=run.level.label,
        loop=run.level.loop,
        load_value=float(next((load for load in loads if load is not None), 0)),
        valid=run.valid,
        gates=run.gates,
        arms=first_arms(run),
        # A model that failed in every block has no ratio, and with that no speed-up.
        speedups={c.model: c.ratios for c in run.comparisons if headline in c.ratios and not c.is_control},
        block_speedups={c.model: c.block_ratios.get(headline, ()) for c in run.comparisons if not c.is_control},
    )


def _ceilings(
    runs: list[RunManifest], variants: dict[str, VariantManifest], hardware: Hardware
) -> tuple[CeilingRow, ...]:
    rows = [
        row
        for run in runs
        for arm in first_arms(run)
        if (row := _ceiling_row(run, arm, variants, hardware)) is not None
    ]
    return tuple(rows)


def _ceiling_row(
    run: RunManifest, arm: ArmSummary, variants: dict[str, VariantManifest], hardware: Hardware
) -> CeilingRow | None:
    """None for open loops (the batch is not fixed), models without a manifest, and lengths of unknown mean."""
    batch, measured = run.level.concurrency, arm.measures.get("output_tokens_per_s")
    prompt, output = mean_tokens(run.workload.prompt_tokens), mean_tokens(run.workload.output_tokens)
    if batch is None or measured is None or arm.model not in variants or prompt is None or output is None:
        return None
    # On average half of the output is in the cache while a request decodes.
    context_tokens = prompt + output / 2
    ceiling = decode_ceiling(variants[arm.model].footprint, hardware, batch, context_tokens)
    reference = variants.get(run.against) if run.against else None
    dense = decode_ceiling(reference.footprint, hardware, batch, context_tokens) if reference else None
    return CeilingRow(
        model=arm.model,
        level=run.level.label,
        batch=batch,
        ceiling_tokens_per_s=ceiling.tokens_per_s,
        measured_tokens_per_s=measured,
        reached_ratio=measured / ceiling.tokens_per_s,
        bound_by=ceiling.bound_by,
        predicted_speedup=dense.step_s / ceiling.step_s if dense else None,
    )


def _replay_command(folder: Path, run: RunManifest) -> str:
    trace = run.trace.options if run.trace else ""
    context = f"--context-tokens {run.context_tokens}" if run.clipped_requests else ""
    asked = " ".join(filter(None, (run.level.options, trace, context)))
    models = " ".join(f"--model {model}" for model in run.models)
    against = f" --against {run.against}" if run.against else ""
    return (
        f"prunebench loadtest --url {run.url} {models}{against} {asked} --duration {run.duration_s:g} "
        f"--blocks {run.blocks} {run.workload.options} --out {folder.name}"
    )
