"""How often do the intervals contain the truth, for how many and which blocks? By simulation.

    python benchmarks/interval_coverage.py [--samples 2000] [--render-only]

Blocks are drawn from distributions with mean 0 (a ratio of 1); paired t, BCa bootstrap and the published, wider one are
computed from each sample.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from loadtest.intervals import bca_interval, published, student_interval
from loadtest.power import MIN_BLOCKS

STEM = Path(__file__).with_name("interval_coverage_202611")
SIZES = (6, 8, 12)
NOMINAL, PROMISED = 0.95, 0.93
RESAMPLES = 500
SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda g, n: g.normal(0, 1, n),
    "heavy tails, t(3)": lambda g, n: g.standard_t(3, n),
    "a tenth disturbed fivefold": lambda g, n: g.normal(0, 1, n) * np.where(g.random(n) < 0.1, 5, 1),
    "skewed, exponential": lambda g, n: g.exponential(1, n) - 1,
}
KINDS = ("paired_t", "bca_bootstrap", "published")


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    if not options.render_only:
        rows = [coverage(shape, size, options.samples) for shape in SHAPES for size in SIZES]
        provenance = collect_provenance().model_dump(mode="json")
        write_raw(STEM, {"samples": options.samples, "rows": rows, "provenance": provenance})
    draw_page(STEM, render)


def coverage(shape: str, size: int, samples: int) -> dict[str, Any]:
    """How many of the samples' intervals contain 0, by kind."""
    generator = np.random.default_rng(20_262)
    covered = dict.fromkeys(KINDS, 0)
    for _ in range(samples):
        sample = SHAPES[shape](generator, size)
        pair = (student_interval(sample, NOMINAL), bca_interval(sample, NOMINAL, RESAMPLES))
        for kind, interval in zip(KINDS, (*pair, published(pair)), strict=True):
            assert interval is not None
            covered[kind] += interval.low <= 0 <= interval.high
    sys.stderr.write(f"{shape}, {size}: {covered}\n")
    return {"shape": shape, "blocks": size, "covered": covered}


def least(samples: int) -> float:
    """What the promised coverage shows but for chance: two binomial standard errors below it."""
    return samples * (PROMISED - 2 * (PROMISED * (1 - PROMISED) / samples) ** 0.5)


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    samples, rows = raw["samples"], raw["rows"]
    short = [
        f"{r['shape']} with {r['blocks']}"
        for r in rows
        if r["blocks"] >= MIN_BLOCKS and r["covered"]["published"] < least(samples)
    ]
    lines = [
        "# Coverage of the intervals",
        "",
        f"*Question: does a 95 % interval cover at least {PROMISED:.0%} from {MIN_BLOCKS} blocks on, the fewest that "
        f"are recommended?* **{'Not everywhere' if short else 'Yes'}**"
        + (f"; it is short for: {'; '.join(short)}." if short else "."),
        "",
        "| blocks' shape | blocks | paired t | BCa bootstrap | published (the wider) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        shares = " | ".join(f"{r['covered'][kind] / samples:.1%}" for kind in KINDS)
        lines.append(f"| {r['shape']} | {r['blocks']} | {shares} |")
    lines += [
        "",
        f"{samples:,} samples each, {RESAMPLES:,} resamples; *short* is more than two standard errors below, each "
        f"of {(0.95 * 0.05 / samples) ** 0.5:.1%}.",
        "",
        f"Made with {made_with(raw['provenance'], ('numpy', 'scipy'))}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
