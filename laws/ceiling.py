"""How far below the roofline is what was measured? Each variant's ceiling at each level, before and after a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from artifacts.document import Document
from artifacts.lengths import mean_tokens
from artifacts.run import ArmSummary, Level, RunManifest, Workload
from artifacts.units import format_bytes, format_ratio, format_seconds
from artifacts.variant import VariantManifest
from laws.roofline import Ceiling, Hardware, decode_ceiling


class CeilingRow(Document):
    """One arm at one level beside the roofline's bound. `step_s` bounds TPOT from below; null in version 1."""

    model: str
    level: str
    batch: int
    ceiling_tokens_per_s: float
    measured_tokens_per_s: float
    reached_ratio: float
    bound_by: str
    predicted_speedup: float | None
    step_s: float | None = None
    measured_tpot_s: float | None = None


def served_manifests(served: Mapping[str, Any]) -> dict[str, VariantManifest]:
    """The manifests in `/v1/models` entries by model. Raises ConfigError if one is damaged."""
    found: dict[str, VariantManifest] = {}
    for name, entry in served.items():
        extra = entry.get("prunebench")
        raw = extra.get("manifest") if isinstance(extra, dict) else None
        if raw is not None:
            found[name] = VariantManifest.parse(raw, f"the served manifest of {name}")
    return found


def card_table(
    variants: Mapping[str, VariantManifest], hardware: Hardware, levels: Iterable[Level], workload: Workload
) -> list[list[str]]:
    """What can be reached at most, before anything is measured; the first row is the header.

    An open loop does not fix how many decode together: its bound is that of one sequence, which no batch beats.
    """
    header = ["level", "model", "weights", "KV per token", "KV of the batch", "step = least TPOT", "bound by"]
    rows = [[*header, "most tokens/s"]]
    context_tokens = mean_context_tokens(workload)
    if context_tokens is None:
        return rows
    for level in levels:
        for name, manifest in variants.items():
            batch = level.concurrency or 1
            ceiling = decode_ceiling(manifest.footprint, hardware, batch, context_tokens)
            weights_bytes, kv_bytes = manifest.footprint.weights_bytes, manifest.footprint.kv_bytes_per_token
            sizes = [format_bytes(size) for size in (weights_bytes, kv_bytes, batch * context_tokens * kv_bytes)]
            most = f"{ceiling.tokens_per_s:,.0f}" if level.concurrency else ""
            rows.append([level.label, name, *sizes, format_seconds(ceiling.step_s), ceiling.bound_by, most])
    return rows


def reached_table(rows: Iterable[CeilingRow]) -> list[list[str]]:
    """Measured beside the ceiling; the first row is the header."""
    header = ["level", "model", "TPOT p50", "least TPOT", "tokens/s", "most tokens/s", "measured / ceiling"]
    return [header, *(_reached(row) for row in rows)]


def _reached(row: CeilingRow) -> list[str]:
    tpot, step = ("–" if s is None else format_seconds(s) for s in (row.measured_tpot_s, row.step_s))
    speeds = [f"{speed:,.0f}" for speed in (row.measured_tokens_per_s, row.ceiling_tokens_per_s)]
    return [row.level, row.model, tpot, step, *speeds, format_ratio(row.reached_ratio)]


def mean_context_tokens(workload: Workload) -> float | None:
    """Tokens in the cache of one sequence; on average half of the output is there while it decodes."""
    prompt, output = mean_tokens(workload.prompt_tokens), mean_tokens(workload.output_tokens)
    return None if prompt is None or output is None else prompt + output / 2


def ceiling_rows(
    run: RunManifest, arms: Iterable[ArmSummary], variants: Mapping[str, VariantManifest], hardware: Hardware
) -> tuple[CeilingRow, ...]:
    """No row for open loops (the batch is not fixed), models without a manifest, and lengths of unknown mean."""
    batch, context_tokens = run.level.concurrency, mean_context_tokens(run.workload)
    if batch is None or context_tokens is None:
        return ()
    known = [arm for arm in arms if arm.model in variants]
    dense = variants.get(run.against or "")
    bound = None if dense is None else decode_ceiling(dense.footprint, hardware, batch, context_tokens)
    rows = []
    for arm in known:
        ceiling = decode_ceiling(variants[arm.model].footprint, hardware, batch, context_tokens)
        rows.append(_row(run.level.label, batch, arm, ceiling, bound))
    return tuple(row for row in rows if row is not None)


def _row(level: str, batch: int, arm: ArmSummary, ceiling: Ceiling, dense: Ceiling | None) -> CeilingRow | None:
    measured = arm.measures.get("output_tokens_per_s")
    if measured is None:
        return None
    return CeilingRow(
        model=arm.model,
        level=level,
        batch=batch,
        ceiling_tokens_per_s=ceiling.tokens_per_s,
        measured_tokens_per_s=measured,
        reached_ratio=measured / ceiling.tokens_per_s,
        bound_by=ceiling.bound_by,
        predicted_speedup=dense.step_s / ceiling.step_s if dense else None,
        step_s=ceiling.step_s,
        measured_tpot_s=arm.measures.get("tpot_p50_s"),
    )
