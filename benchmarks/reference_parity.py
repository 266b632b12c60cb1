"""Are our width methods where their authors' own code is? Measures FFN pruning of stories260K and draws the comparison.

    python benchmarks/reference_parity.py --model DIR --text FILE [--seeds 0 1 2] [--render-only]

The text's stories are dealt out by position: even ones calibrate, every fourth from the fourth on evaluates; constants
were chosen on the rest. Finished cells are kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import made_with
from compressors.methods import REGISTRY
from compressors.plan import LayerBudget
from compressors.repair import Repair
from compressors.resident import prune_resident
from compressors.sequential import PruningJob
from compressors.source import load_model, load_tokenizer
from compressors.text import encode_documents, read_corpus, window_prefix

STEM = Path(__file__).with_name("reference_parity_cpu_202611")
WIDTHS = {150: "12.5 %", 129: "25 %", 107: "37.5 %", 86: "50 %"}
METHODS = ("random", "magnitude", "prunenet", "taylor", "wanda_sp", "flap", "modegpt_mlp", "obs")
REPAIRS: tuple[Repair, ...] = ("none", "bias", "ridge")
WINDOWS, WINDOW_TOKENS, LENGTH_TOKENS, BATCH = 128, 256, 512, 16

# Nats of the authors' own code on this model by the same protocol (dense 1.4463 on its evaluation stories).
REFERENCE_DENSE = 1.4463
REFERENCES: dict[str, tuple[str, Repair, tuple[float, float, float, float]]] = {
    "random rows": ("random", "none", (1.982, 2.806, 3.765, 4.480)),
    "magnitude": ("magnitude", "none", (1.996, 2.917, 3.599, 4.359)),
    "PruneNet policy (no data)": ("prunenet", "none", (2.017, 2.911, 3.823, 4.515)),
    "LLM-Pruner (Taylor, no tuning)": ("taylor", "none", (1.952, 2.681, 3.515, 4.216)),
    "Wanda-sp": ("wanda_sp", "none", (1.714, 2.249, 2.826, 3.571)),
    "FLAP, uniform (with its bias)": ("flap", "bias", (1.701, 2.186, 2.739, 3.325)),
    "magnitude, then least squares": ("magnitude", "ridge", (1.709, 2.113, 2.631, 3.147)),
    "OSSCAR (10 rows a step)": ("obs", "ridge", (1.626, 1.916, 2.321, 2.788)),
}

PAGE = """# Width methods on stories260K, beside their originals

*Question: does each method land within 2 % of the loss that its authors' own code reaches, or below?*
{answer}

The model has 5 layers with 172 FFN channels; the same share of channels goes from each. Held-out nats **above dense**
(ours {dense:.4f}, the originals' {reference_dense:.4f} on their own evaluation stories), because the two evaluations
read different stories. Means over the seeds, range in brackets.

| the originals' | {widths} | ours | {widths} |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{reference_rows}

All methods and repairs:

| method | repair | {widths} |
| --- | --- | --- | --- | --- | --- |
{rows}

**Protocol.** {model}, float32. Calibration per seed: 128 of the even stories of {text} with 256 tokens or more, BOS in
front, first 256 tokens (32,768 tokens). Evaluation: every fourth story from the fourth on, {evaluation_tokens:,}
predicted tokens, BOS + story cut at 512, mean negative log likelihood of every token after BOS. Constants were chosen
on other stories than these. "2 %" is of the original's loss, on differences to dense. The originals' numbers were
measured with the authors' repositories on the same model; their evaluation had 239 stories, 89,153 tokens.

**Made with** {made_with}; {cells} cells, median
{seconds:.1f} s each with one thread on a busy shared machine. Raw data: `benchmarks/{raw}`; this page is generated from
it by `benchmarks/reference_parity.py --render-only`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of stories260K")
    parser.add_argument("--text", type=Path, help="stories separated by <|endoftext|> lines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--render-only", action="store_true", help="draw the page from the raw data again")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        measure(options.model, options.text, options.seeds)
    raw = json.loads(STEM.with_suffix(".json").read_text(encoding="utf-8"))
    STEM.with_suffix(".md").write_text(render(raw), encoding="utf-8")


def measure(model: Path, text: Path, seeds: list[int]) -> None:
    """Adds the cells that are missing, saving after each."""
    base = load_model(model)
    long_enough, evaluation = deal_out(model, text)
    raw = _begun(model, text, base, evaluation)
    done = {(cell["method"], cell["repair"], cell["kept"], cell["seed"]) for cell in raw["cells"]}
    for seed in seeds:
        windows = torch.tensor(Random(seed).sample(long_enough, WINDOWS))
        for method, repair, kept in _arms():
            if (method, repair, kept, seed) not in done:
                raw["cells"].append(measure_cell(base, windows, evaluation, method, repair, kept, seed))
                STEM.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def _begun(model: Path, text: Path, base: Any, evaluation: list[list[int]]) -> dict[str, Any]:
    if STEM.with_suffix(".json").exists():
        begun: dict[str, Any] = json.loads(STEM.with_suffix(".json").read_text(encoding="utf-8"))
        return begun
    return {
        "model": model.name,
        "text": text.name,
        "dense_nats": held_out_nats(base, evaluation),
        "evaluation_tokens": sum(len(window) - 1 for window in evaluation),
        "cells": [],
        "provenance": collect_provenance().model_dump(mode="json"),
    }


def _arms() -> Iterator[tuple[str, Repair, int]]:
    """What has an original comes first."""
    compared = [(method, repair) for method, repair, _ in reversed(REFERENCES.values())]
    rest = [(method, repair) for repair in REPAIRS for method in METHODS if (method, repair) not in compared]
    for arms in (compared, rest):
        for kept in (129, 86, 150, 107):
            for method, repair in arms:
                yield method, repair, kept


def deal_out(model: Path, text: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Calibration windows to draw from, and evaluation windows."""
    tokenizer = load_tokenizer(model)
    prefix = window_prefix(tokenizer)
    stories = [prefix + ids for ids in encode_documents(tokenizer, read_corpus(text))]
    long_enough = [ids[:WINDOW_TOKENS] for ids in stories[0::2] if len(ids) >= WINDOW_TOKENS]
    return long_enough, [ids[:LENGTH_TOKENS] for ids in stories[3::4]]


def measure_cell(
    base: Any, windows: Tensor, evaluation: list[list[int]], method: str, repair: Repair, kept: int, seed: int
) -> dict[str, Any]:
    began = time.perf_counter()
    nats = held_out_nats(pruned_copy(base, windows, method, repair, kept, seed), evaluation)
    seconds = time.perf_counter() - began
    sys.stderr.write(f"{method} {repair} {kept} seed {seed}: {nats:.4f} nats, {seconds:.1f} s\n")
    return {"method": method, "repair": repair, "kept": kept, "seed": seed, "loss_nats": nats, "seconds_s": seconds}


def pruned_copy(base: Any, windows: Tensor, method: str, repair: Repair, kept: int, seed: int) -> Any:
    """The only place that knows how the compressor is called."""
    model = copy.deepcopy(base)
    layers = model.config.num_hidden_layers
    widths = LayerBudget(kv_groups=model.config.num_key_value_heads, ffn_channels=kept)
    job = PruningJob(
        method=REGISTRY.named(method), units=("ffn",), allocation=(widths,) * layers, repair=repair, seed=seed
    )
    prune_resident(model, job, windows)
    return model


def held_out_nats(model: Any, evaluation: list[list[int]]) -> float:
    """Mean over all predicted tokens. Stories of similar length share a batch, padded behind their ends."""
    total = 0.0
    ordered = sorted(evaluation, key=len)
    with torch.inference_mode():
        for start in range(0, len(ordered), BATCH):
            windows = [torch.tensor(window) for window in ordered[start : start + BATCH]]
            ids = nn.utils.rnn.pad_sequence(windows, batch_first=True)
            targets = nn.utils.rnn.pad_sequence(windows, batch_first=True, padding_value=-100)[:, 1:]
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
    return total / sum(len(window) - 1 for window in evaluation)


def excess(raw: dict[str, Any], method: str, repair: str, kept: int) -> list[float]:
    """Nats above dense, one per seed."""
    wanted = (method, repair, kept)
    cells = [cell for cell in raw["cells"] if (cell["method"], cell["repair"], cell["kept"]) == wanted]
    return [cell["loss_nats"] - raw["dense_nats"] for cell in sorted(cells, key=lambda cell: int(cell["seed"]))]


def misses(raw: dict[str, Any]) -> list[str]:
    """Names and widths where our mean is more than 2 % of the original's loss above it, or was not measured."""
    missed = []
    for name, (method, repair, published) in REFERENCES.items():
        for (kept, share), nats in zip(WIDTHS.items(), published, strict=True):
            ours = excess(raw, method, repair, kept)
            if not ours or mean(ours) > nats * 1.02 - REFERENCE_DENSE:
                missed.append(f"{name} at {share}")
    return missed


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    missed = misses(raw)
    count = len(REFERENCES) * len(WIDTHS)
    verdict = f"**{'No' if missed else 'Yes'}: in {count - len(missed)} of {count} comparisons.**"
    seconds = sorted(cell["seconds_s"] for cell in raw["cells"])
    return PAGE.format(
        answer=verdict + (f" Missed: {'; '.join(missed)}." if missed else ""),
        dense=raw["dense_nats"],
        reference_dense=REFERENCE_DENSE,
        widths=" | ".join(WIDTHS.values()),
        reference_rows="\n".join(_reference_row(raw, name) for name in REFERENCES),
        rows="\n".join(_row(raw, method, repair) for method in METHODS for repair in REPAIRS),
        model=raw["model"],
        text=raw["text"],
        evaluation_tokens=raw["evaluation_tokens"],
        made_with=made_with(raw["provenance"]),
        cells=len(raw["cells"]),
        seconds=seconds[len(seconds) // 2],
        raw=STEM.with_suffix(".json").name,
    )


def _reference_row(raw: dict[str, Any], name: str) -> str:
    method, repair, published = REFERENCES[name]
    theirs = " | ".join(f"{nats - REFERENCE_DENSE:.3f}" for nats in published)
    return f"| {name} | {theirs} | `{method}`, {repair} | {_ours(raw, method, repair)} |"


def _row(raw: dict[str, Any], method: str, repair: str) -> str:
    return f"| `{method}` | {repair} | {_ours(raw, method, repair)} |"


def _ours(raw: dict[str, Any], method: str, repair: str) -> str:
    return " | ".join(_cell(excess(raw, method, repair, kept)) for kept in WIDTHS)


def _cell(nats: list[float]) -> str:
    if not nats:
        return "not measured"
    spread = "" if max(nats) == min(nats) else f" [{min(nats):.3f}, {max(nats):.3f}]"
    return f"{mean(nats):.3f}{spread}"


if __name__ == "__main__":
    main()
