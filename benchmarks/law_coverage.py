"""Are fitted laws right when the truth is known? By simulation: coverage of intervals, and which law wins held out.

    python benchmarks/law_coverage.py [--draws 1000] [--contests 100] [--render-only]

Points are drawn from each law with known parameters on a grid of models, ratios and budgets, with errors of one spread;
all laws are fitted as a study's are. An interval is right if it holds the true parameter; a law wins a contest if its
error at ratios above 0.6, fitted up to there, is less than its rival's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from laws.fits.fit import fit_law
from laws.fits.held_out import held_out
from laws.fits.sample import Sample, Scale
from laws.forms import LAWS, Conditions, Law

STEM = Path(__file__).with_name("law_coverage_cpu_202611")
TRUE: dict[str, tuple[float, ...]] = {
    "v1": (1.1, 1.9, 0.5),
    "v2": (-0.05, -0.6),
    "linear": (1.4, 0.4),
    "quadratic": (0.3, 1.6, 0.4),
    "P2": (0.9, 0.7, 0.2, 0.35, 0.4, -1.5, 0.15),
    "sparse scaling": (0.6, 0.8, 0.5, 0.3, 1.0, 0.3, 1.2),
}
SIZES = {0.5e9: 3.2, 1.5e9: 2.9, 3e9: 2.65, 7e9: 2.4, 14e9: 2.2}
CASES: tuple[tuple[str, Scale, float, bool], ...] = (
    ("v1", "log", 0.03, True),
    ("v2", "log", 0.03, True),
    ("v1", "natural", 0.05, False),
    ("linear", "natural", 0.05, False),
    ("quadratic", "natural", 0.05, True),
    ("P2", "log", 0.0005, False),
    ("sparse scaling", "log", 0.0005, False),
)
RIVALS = tuple(
    (truth, rival)
    for truth, rival in product(("v1", "v2", "linear", "quadratic"), repeat=2)
    # A parabola is a line as well: it is not wrong, only less sure.
    if truth != rival and (truth, rival) != ("linear", "quadratic")
)
CONTEST_NOISE = 0.02
REPLICATES = 300
PROMISED = 0.93


def grid(budgets: Sequence[float], ratios: Sequence[float]) -> Conditions:
    """Every model at every ratio and budget."""
    rows = [(base, r, d, n, n * (1 - r)) for (n, base), r, d in product(SIZES.items(), ratios, budgets)]
    base, ratio, tokens, base_params, params = np.array(rows).T
    return Conditions(base=base, ratio=ratio, tokens=tokens, base_params=base_params, params=params)


FIVE = (0.1, 0.3, 0.5, 0.7, 0.9)
NINE = tuple(round(0.1 * i, 1) for i in range(1, 10))
SMALL = grid((0.0, 1e6, 25e6), FIVE)
LARGE = grid((1e5, 1e6, 4e6, 25e6, 100e6), FIVE)
CONTEST = grid((0.0, 1e6, 25e6), NINE)


def truth(law: Law, at: Conditions) -> Sample:
    """Without errors, at the points where the law is defined; each point is a cluster."""
    points = at.at(np.flatnonzero(law.defined(at)))
    return Sample(
        at=points,
        observed=np.asarray(law(TRUE[law.name], points), dtype=float),
        clusters=np.arange(len(points)),
        models=points.base_params,
    )


def noisy(sample: Sample, noise: float, seed: tuple[int, int], scale: Scale = "log") -> Sample:
    """Errors of one spread on the scale."""
    errors = noise * np.random.default_rng(seed).standard_normal(len(sample))
    observed = sample.observed * np.exp(errors) if scale == "log" else sample.observed + errors
    return Sample(at=sample.at, observed=observed, clusters=sample.clusters, models=sample.models)


def coverage(name: str, scale: Scale, noise: float, replicates: int, draws: int) -> dict[str, list[int]]:
    """How many of the draws' intervals hold each true parameter, by the kind of interval."""
    sample = truth(LAWS[name], LARGE if len(TRUE[name]) > 3 else SMALL)
    stream = list(TRUE).index(name) * 2 + (scale == "natural")
    hits: dict[str, list[list[bool]]] = {}
    for seed in range(draws):
        drawn = noisy(sample, noise, (stream, seed), scale)
        fit = fit_law(LAWS[name], drawn, scale, replicates=replicates, seed=seed).fit
        ends = {"Student": [(p.t_low, p.t_high) for p in fit.parameters]}
        if replicates:
            ends["bootstrap"] = [(p.low, p.high) for p in fit.parameters]
        for kind, intervals in ends.items():
            pairs = zip(intervals, TRUE[name], strict=True)
            hits.setdefault(kind, []).append(
                [low is not None and high is not None and low <= true <= high for (low, high), true in pairs]
            )
    return {kind: [int(count) for count in np.sum(rows, axis=0)] for kind, rows in hits.items()}


def contest(name: str, rival: str, draws: int) -> int:
    """How often the true law's held-out error is the lesser."""
    sample, wins = truth(LAWS[name], CONTEST), 0
    for seed in range(draws):
        drawn = noisy(sample, CONTEST_NOISE, (100, seed))
        own, other = (held_out(LAWS[law], drawn, "higher ratios", bounds=False) for law in (name, rival))
        assert own is not None and other is not None
        wins += own.rmse_of_base < other.rmse_of_base
    return wins


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--contests", type=int, default=100)
    options = parser.parse_args()
    if not options.render_only:
        write_raw(STEM, _measured(options.draws, options.contests))
    draw_page(STEM, render)


def _measured(draws: int, contests: int) -> dict[str, Any]:
    rows = []
    for name, scale, noise, resampled in CASES:
        covered = coverage(name, scale, noise, REPLICATES if resampled else 0, draws)
        rows.append({"law": name, "scale": scale, "noise": noise, "covered": covered})
        sys.stderr.write(f"{rows[-1]}\n")
    return {
        "draws": draws,
        "contests": contests,
        "rows": rows,
        "wins": [{"truth": name, "rival": rival, "wins": contest(name, rival, contests)} for name, rival in RIVALS],
        "provenance": collect_provenance().model_dump(mode="json"),
    }


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    draws, contests = raw["draws"], raw["contests"]
    worst = min(min(counts) for row in raw["rows"] for counts in row["covered"].values())
    closest = min(raw["wins"], key=lambda row: row["wins"])
    lines = [
        "# Fitted laws against a known truth",
        "",
        f"*Question: do 95 % intervals of fitted parameters hold the truth in at least {PROMISED:.0%} of draws, and "
        f"does the wrong law lose on ratios it has not seen?* **The worst interval holds it in {worst / draws:.1%} of "
        f"{draws:,} draws; the true law wins at least {closest['wins']} of {contests} contests.**",
        "",
        "| law | errors on the scale | spread | interval | coverage, parameter by parameter |",
        "| --- | --- | ---: | --- | --- |",
    ]
    for row in raw["rows"]:
        names = LAWS[row["law"]].parameters
        for kind, counts in row["covered"].items():
            shares = ", ".join(f"{name} {count / draws:.1%}" for name, count in zip(names, counts, strict=True))
            lines.append(f"| {row['law']} | {row['scale']} | {row['noise']:g} | {kind} | {shares} |")
    lines += [
        "",
        f"Each share has a standard error of {(0.95 * 0.05 / draws) ** 0.5:.1%}. The bootstrap has {REPLICATES} "
        "replicates where it was asked for.",
        "",
        "## Who wins above r = 0.6, fitted up to there",
        "",
        f"| truth | rival | true law wins, of {contests} |",
        "| --- | --- | ---: |",
        *(f"| {row['truth']} | {row['rival']} | {row['wins']} |" for row in raw["wins"]),
        "",
        f"Errors of {CONTEST_NOISE:.0%} on each of {len(CONTEST)} points.",
        "",
        f"Made with {made_with(raw['provenance'], ('numpy', 'scipy'))}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
