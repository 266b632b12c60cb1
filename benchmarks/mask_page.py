"""The page of `sparse_masks`, drawn from its raw data alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.pages import made_with

SEEDS = range(3)
PATTERNS = {"50 %": 0.5, "70 %": 0.7, "80 %": 0.8, "90 %": 0.9, "2:4": 0.5, "3:4": 0.75}
HIGH = ("80 %", "90 %", "3:4")
# By arm the method and in what its configuration differs.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude": ("weight_magnitude", {}),
    "Wanda": ("wanda", {}),
    "Wanda, its rounding": ("wanda", {"rows": "floor"}),
    "SparseGPT": ("sparsegpt", {}),
    "sparsellm": ("sparsellm", {}),
    "finish alone": ("sparsellm", {"epochs": 1}),
    "SparseLLM, not finished": ("sparsellm", {"finish": False}),
}
# Where one draw of windows says little: how far ten of them lie apart, on stories260K.
DRAWN = (("SparseGPT", "3:4"), ("Wanda, its rounding", "2:4"))
DRAWS = range(10)
ABLATIONS = ("finish alone", "SparseLLM, not finished")
# The authors' own code on stories260K, nats by pattern, seed 0; dense 1.4463 on its evaluation stories.
REFERENCE_DENSE = 1.4463
REFERENCES: dict[str, tuple[float, ...]] = {
    "magnitude": (3.767, 5.914, 6.608, 10.348, 4.784, 7.327),
    "Wanda, its rounding": (3.015, 4.963, 6.640, 7.979, 4.190, 7.525),
    "SparseGPT": (2.939, 4.685, 5.660, 7.761, 3.496, 5.142),
    "sparsellm": (2.910, 4.788, 5.659, 7.242, 3.498, 5.823),
}
ALLOWED = 1.02
STEPS = {
    "_dense_sums": "dense pass",
    "_started": "first sweeps",
    "_updated": "passes that update values",
    "best_inputs": "- of these the consumer's inputs",
    "fitted": "- of these the producers' outputs",
    "_gate": "- of these the gate",
    "_refitted": "fits and sweeps",
    "_finished": "finish",
}


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    missed = misses(raw)
    count = len(REFERENCES) * len(PATTERNS)
    lines = [
        "# Masks of single weights",
        "",
        "Unstructured and n:m masks (n zeros in every m) of all matrices in the blocks. Shapes stay: **no engine here "
        "computes a masked checkpoint faster** ([served by vLLM](masked_serving_cpu_202611.md)), so these are "
        "baselines of quality. Held-out nats, mean over the seeds "
        f"measured ({_seeds(raw)}) with the range in brackets, perplexity below. magnitude needs no text and has "
        f"one run, so have {' and '.join(ABLATIONS)}. Empty cells were not measured.",
        "",
        f"*Is each method within 2 % of the loss that its authors' code reaches on stories260K, or below?* "
        f"**{'Yes' if not missed else 'No'}: in {count - len(missed)} of {count} comparisons.**"
        + (f" Missed: {'; '.join(missed)}." if missed else ""),
        "",
        "*Wanda, its rounding* makes `int(columns * share)` weights of each row zero, as the authors' code does, which "
        "is 68.9 % instead of 70 % here. *SparseLLM, not finished* is the alternation as published; *finish alone* is "
        "SparseGPT with the down projection fitted and masked towards the dense output on what the masked gate and up "
        "give; `sparsellm` is both.",
    ]
    lines += ["", *_draws(raw)]
    for model, facts in _measured(raw).items():
        lines += ["", f"## {model}, dense {facts['loss_nats']:.3f} nats (perplexity {_ppl(facts['loss_nats'])})", ""]
        lines += [*_table(raw, model), "", *_ordering(raw, model)]
    lines += ["", "## What each step of `sparsellm` costs", "", *_steps(raw), "", *_closing(raw)]
    return "\n".join(lines) + "\n"


def _draws(raw: dict[str, Any]) -> Iterator[str]:
    """The original's value was measured on one draw of windows: is it one that ours could have given?"""
    dense = raw["models"]["stories260K"]["loss_nats"]
    for arm, pattern in DRAWN:
        ours = [nats - dense + REFERENCE_DENSE for nats in losses(raw, "stories260K", arm, pattern)]
        original = dict(zip(PATTERNS, REFERENCES[arm], strict=True))[pattern]
        if len(ours) > 1:
            yield (
                f"* {arm} at {pattern} over {len(ours)} draws of windows: {min(ours):.3f} to {max(ours):.3f}, "
                f"standard deviation {stdev(ours):.3f}; the original's one draw is {original:.3f}, "
                f"{(original - fmean(ours)) / stdev(ours):+.1f} standard deviations from the mean."
            )


def losses(raw: dict[str, Any], model: str, arm: str, pattern: str) -> list[float]:
    """One per seed measured."""
    own = [cell for cell in raw["cells"] if (cell["model"], cell["arm"], cell["pattern"]) == (model, arm, pattern)]
    return [cell["loss_nats"] for cell in sorted(own, key=lambda cell: int(cell["seed"]))]


def misses(raw: dict[str, Any]) -> list[str]:
    """Arms and patterns whose mean is more than 2 % above the original's loss, or not measured.

    The two evaluations read different stories, so differences to dense are compared.
    """
    missed = []
    dense = raw["models"]["stories260K"]["loss_nats"]
    for arm, published in REFERENCES.items():
        for pattern, nats in zip(PATTERNS, published, strict=True):
            ours = losses(raw, "stories260K", arm, pattern)
            if not ours or fmean(ours) - dense > nats * ALLOWED - REFERENCE_DENSE:
                missed.append(
                    f"{arm} at {pattern}" + (f" ({fmean(ours) - dense + REFERENCE_DENSE:.3f})" if ours else "")
                )
    return missed


def time_ratio(raw: dict[str, Any], model: str) -> float | None:
    """How many times SparseGPT's processor time `sparsellm` takes, median over the cells; None if one is missing."""
    seconds = [
        [cell["cpu_s"] for cell in raw["cells"] if (cell["model"], cell["arm"]) == (model, arm)]
        for arm in ("SparseGPT", "sparsellm")
    ]
    return median(seconds[1]) / median(seconds[0]) if all(seconds) else None


def _table(raw: dict[str, Any], model: str) -> Iterator[str]:
    yield _row("", *PATTERNS, "median CPU s")
    yield _row(*["---"] * (len(PATTERNS) + 2))
    for arm in ARMS:
        values = [losses(raw, model, arm, pattern) for pattern in PATTERNS]
        if not any(values):
            continue
        seconds = [cell["cpu_s"] for cell in raw["cells"] if (cell["model"], cell["arm"]) == (model, arm)]
        yield _row(arm, *map(_nats, values), f"{median(seconds):.1f}" if seconds else "")
        yield _row("- perplexity", *(_ppl(fmean(each)) if each else "" for each in values), "")
        if model == "stories260K" and arm in REFERENCES:
            yield _row("- the authors' code", *(f"{nats:.3f}" for nats in REFERENCES[arm]), "")


def ordering(raw: dict[str, Any], model: str, pattern: str) -> list[str]:
    """The published methods from the highest loss to the lowest."""
    arms = ("magnitude", "Wanda", "SparseGPT", "sparsellm")
    means = {arm: fmean(found) for arm in arms if (found := losses(raw, model, arm, pattern))}
    return sorted(means, key=lambda arm: -means[arm])


def _ordering(raw: dict[str, Any], model: str) -> Iterator[str]:
    for pattern in HIGH:
        yield f"* {pattern}, from worst to best: {', '.join(ordering(raw, model, pattern))}."
    ratio = time_ratio(raw, model)
    if ratio is not None:
        yield f"* `sparsellm` takes {ratio:.1f} times the processor time of SparseGPT."


def _steps(raw: dict[str, Any]) -> Iterator[str]:
    yield _row("seconds of one run at 70 %", *raw["steps"])
    yield _row(*["---"] * (len(raw["steps"]) + 1))
    for function, name in STEPS.items():
        yield _row(name, *(f"{steps[function]:.2f}" for steps in raw["steps"].values()))
    whole = [steps["masked_copy"] for steps in raw["steps"].values()]
    own = ("_dense_sums", "_started", "_updated", "_refitted", "_finished")
    rest = [steps["masked_copy"] - sum(steps[each] for each in own) for steps in raw["steps"].values()]
    yield _row("attention, and the stream's own passes", *(f"{seconds:.2f}" for seconds in rest))
    yield _row("all", *(f"{seconds:.2f}" for seconds in whole))


def _closing(raw: dict[str, Any]) -> Iterator[str]:
    facts = _measured(raw)
    tokens = "; ".join(
        f"{name} {each['calibration_tokens']:,} and {each['evaluation_tokens']:,}" for name, each in facts.items()
    )
    yield (
        f"Tokens that calibrate and that judge: {tokens}, from other documents, windows of 256 and of 512 at most. "
        "The demo's first seed has the beginnings of all its sixteen files, others have windows from anywhere in them. "
        "Times are processor seconds of one thread, the evaluation not counted; steps are too, by the profiler."
    )
    yield ""
    yield f"Made with {made_with(raw['provenance'])}; drawn by `benchmarks/sparse_masks.py --render-only`."


def _seeds(raw: dict[str, Any]) -> str:
    return ", ".join(map(str, sorted({cell["seed"] for cell in raw["cells"]})))


def _measured(raw: dict[str, Any]) -> dict[str, Any]:
    """The models that cells were measured on."""
    found = {cell["model"] for cell in raw["cells"]}
    return {model: facts for model, facts in raw["models"].items() if model in found}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _nats(values: list[float]) -> str:
    if not values:
        return ""
    spread = "" if max(values) == min(values) else f" [{min(values):.3f}, {max(values):.3f}]"
    return f"{fmean(values):.3f}{spread}"


def _ppl(nats: float) -> str:
    return f"{math.exp(nats):,.1f}"
