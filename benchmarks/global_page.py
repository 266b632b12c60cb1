"""The page of `structured_global`, drawn from its raw data alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.pages import made_with

SEEDS = range(3)
RATIOS = (0.25, 0.5, 0.125, 0.375)
FLAGSHIP = "obs, searched (the flagship)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A method at the widths "uniform" or "flagship", as the grid has them, or at those of an allocation by name.

    `together` blocks in a row are pruned for what they output together.
    """

    method: str
    widths: str
    together: int = 1


ARMS: dict[str, Arm] = {
    "obs, uniform": Arm(method="obs", widths="uniform"),
    "structured SparseLLM, uniform": Arm(method="sparsellm_structured", widths="uniform"),
    "structured SparseLLM, uniform, 2 blocks": Arm(method="sparsellm_structured", widths="uniform", together=2),
    "obs, flagship's widths": Arm(method="obs", widths="flagship"),
    "structured SparseLLM, flagship's widths": Arm(method="sparsellm_structured", widths="flagship"),
    "obs, flagship's widths, 2 blocks": Arm(method="obs", widths="flagship", together=2),
    "structured SparseLLM, flagship's widths, 2 blocks": Arm(
        method="sparsellm_structured", widths="flagship", together=2
    ),
    "structured SparseLLM, flagship's widths, 4 blocks": Arm(
        method="sparsellm_structured", widths="flagship", together=4
    ),
    "policy gradient": Arm(method="policy_gradient", widths="learned"),
}
# Nats that say nothing.
LEVEL = 0.002
# Of two arms that differ in one thing, which is asked whether it pays.
QUESTIONS: dict[str, tuple[str, str]] = {
    "Does the alternation pay, at uniform widths?": ("structured SparseLLM, uniform", "obs, uniform"),
    "Does it pay at the flagship's widths?": ("structured SparseLLM, flagship's widths", FLAGSHIP),
    "Do two blocks together pay, at uniform widths?": (
        "structured SparseLLM, uniform, 2 blocks",
        "structured SparseLLM, uniform",
    ),
    "At the flagship's widths?": (
        "structured SparseLLM, flagship's widths, 2 blocks",
        "structured SparseLLM, flagship's widths",
    ),
    "Do four pay more?": (
        "structured SparseLLM, flagship's widths, 4 blocks",
        "structured SparseLLM, flagship's widths, 2 blocks",
    ),
    "Do four pay at all, against blocks alone?": (
        "structured SparseLLM, flagship's widths, 4 blocks",
        "structured SparseLLM, flagship's widths",
    ),
    "Does policy gradient pay?": ("policy gradient", FLAGSHIP),
    "Does it pay against uniform widths?": ("policy gradient", "obs, uniform"),
    "Do two blocks together pay without the alternation?": ("obs, flagship's widths, 2 blocks", FLAGSHIP),
}


def flagship_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The grid's cells of the flagship, in the form of this record's rows."""
    return [
        {
            **{name: row["cell"][name] for name in ("model", "ratio", "seed")},
            "arm": FLAGSHIP,
            **{name: row[name] for name in ("loss_nats", "kl_nats", "cpu_s", "peak_memory_bytes")},
        }
        for row in rows
        if [row["cell"][name] for name in ("method", "repair", "allocation")] == ["obs", "ridge", "evolutionary"]
    ]


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    lines = [
        "# Structured SparseLLM, alone and over several blocks, against the flagship",
        "",
        "Held-out nats above dense (KL to dense in brackets), mean over the seeds measured. Text, shares of the "
        "blocks' parameters and the flagship's row are those of [all methods at equal block parameters]"
        "(methods_grid_cpu_202611.md). *Flagship's widths* are what its search found for `obs` with the same seed: "
        "other methods are pruned to them, so the time of that search comes on top of theirs. *2 blocks* is "
        "`--together 2`. *Policy gradient* learns widths and units, in front of the same ridge refit. Times are "
        "processor seconds of one thread, for the flagship with its search and export; peaks are those of the whole "
        "process, libraries included. Empty cells were not measured. Answers compare equal "
        f"seeds; less than {LEVEL} nats is level. The method's constants were chosen on stories260K at 25 % of FFN "
        "channels, by the same evaluation stories.",
    ]
    for model, dense in raw["dense"].items():
        lines += ["", f"## {model}, dense {dense['loss_nats']:.3f} nats", "", *_table(raw, model), ""]
        lines += [f"* {question} {_answer(raw, model, *pair)}" for question, pair in QUESTIONS.items()]
    return "\n".join([*lines, "", *_closing(raw)]) + "\n"


def cells(raw: dict[str, Any], model: str, arm: str, ratio: float) -> dict[int, dict[str, Any]]:
    """By seed what was measured."""
    rows = raw["flagship"] if arm == FLAGSHIP else raw["rows"]
    return {row["seed"]: row for row in rows if (row["model"], row["arm"], row["ratio"]) == (model, arm, ratio)}


def gains(raw: dict[str, Any], model: str, better: str, than: str) -> dict[float, float]:
    """By ratio how many nats less the one loses than the other, mean over the seeds that both have."""
    found = {}
    for ratio in sorted(RATIOS):
        ours, theirs = (cells(raw, model, arm, ratio) for arm in (better, than))
        if seeds := ours.keys() & theirs.keys():
            found[ratio] = fmean(theirs[seed]["loss_nats"] - ours[seed]["loss_nats"] for seed in seeds)
    return found


def _answer(raw: dict[str, Any], model: str, better: str, than: str) -> str:
    found = gains(raw, model, better, than)
    if not found:
        return "Not measured."
    wins, losses = (sum(sign * gain > LEVEL for gain in found.values()) for sign in (1, -1))
    verdict = "Yes" if wins == len(found) else "Level" if wins == losses == 0 else "No" if wins == 0 else "In part"
    return f"**{verdict}**: nats gained {', '.join(f'{gain:+.3f} at {ratio:.1%}' for ratio, gain in found.items())}."


def _table(raw: dict[str, Any], model: str) -> Iterator[str]:
    ratios = sorted(RATIOS)
    yield _row("", *(f"{ratio:.1%}" for ratio in ratios), "median CPU s", "peak MiB", "seeds")
    yield _row(*["---"] * (len(ratios) + 4))
    for arm in (FLAGSHIP, *ARMS):
        found = [cells(raw, model, arm, ratio) for ratio in ratios]
        rows = [row for by_seed in found for row in by_seed.values()]
        if not rows:
            continue
        values = [_value(list(by_seed.values()), raw["dense"][model]["loss_nats"]) for by_seed in found]
        seconds = f"{median(row['cpu_s'] for row in rows):.1f}"
        peak = f"{max(row['peak_memory_bytes'] for row in rows) / 2**20:.0f}"
        yield _row(arm, *values, seconds, peak, ", ".join(map(str, sorted({row["seed"] for row in rows}))))


def _value(rows: list[dict[str, Any]], dense: float) -> str:
    if not rows:
        return ""
    return f"{fmean(row['loss_nats'] for row in rows) - dense:.3f} ({fmean(row['kl_nats'] for row in rows):.3f})"


def _closing(raw: dict[str, Any]) -> Iterator[str]:
    yield f"Made with {made_with(raw['provenance'])}; drawn by `benchmarks/structured_global.py --render-only`."


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
