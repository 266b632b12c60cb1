"""The summary for a terminal and for a document: one row per model, the ratio at each level, what it costs.

`python -m laws.table report.json` prints it as Markdown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from artifacts.units import format_count, format_ratio
from laws.findings import HEADLINE, Findings, quality_value
from laws.report import format_estimate


def summary_rows(findings: Findings) -> list[list[str]]:
    """Header first. Ratios are tokens/s over the reference, with 95 % intervals."""
    header = ["variant", "parameters", "removed", "KV bytes removed", "held-out loss, nats"]
    rows = [header + [f"× tokens/s, {level.label}" for level in findings.levels]]
    return rows + [_row(findings, model) for model in findings.models]


def _row(findings: Findings, model: str) -> list[str]:
    manifest = findings.variants.get(model)
    if manifest is None:
        described = ["–"] * 4
    else:
        loss = quality_value(manifest, "loss_nats")
        described = [
            format_count(manifest.footprint.params_total),
            format_ratio(manifest.ratios.params_total),
            format_ratio(manifest.ratios.kv_bytes_per_token),
            "–" if loss is None else f"{loss:.3f}",
        ]
    unmeasured = "1" if model == findings.reference else "–"
    ratios = [
        format_estimate(level.speedups[model][HEADLINE]) if model in level.speedups else unmeasured
        for level in findings.levels
    ]
    return [model, *described, *ratios]


def as_markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(as_markdown(summary_rows(Findings.load(Path(sys.argv[1])))) + "\n")
