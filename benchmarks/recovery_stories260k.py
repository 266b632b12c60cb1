"""What does each way of recovery training win back at the same number of tokens? Writes raw data and table.

    python benchmarks/recovery_stories260k.py --model DIR --text FILE [--render-only]

The text's stories are dealt out by position: even ones train (and calibrate the pruning), every fourth from the fourth
on evaluates. Of the training stories a twentieth is held out by the trainer itself; the methods' learning rates were
chosen on those, so no table cell saw the stories it is measured on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance, package_versions
from artifacts.recovery import CURVE_NAME, LossCurve
from benchmarks.pages import draw_page, made_with, stories_parser, write_raw
from benchmarks.stories import deal_out, write_parts
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.recovery.methods import METHODS
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.request import CompressionRequest
from compressors.verify import verify_variant

STEM = Path(__file__).with_name("recovery_stories260k_cpu_202611")
RATIO = 0.5
TOKENS = 98_304
BATCH_TOKENS = 2048
LENGTH_TOKENS = 512
SEEDS = (0, 1)

PAGE = """# Recovery training on stories260K

*Question: what does each way of recovery training win back at the same number of training tokens?*
Half of the FFN width was removed (`wanda_sp`, no repair): {before:.3f} nats on unseen stories, where the dense
model has {dense:.3f}. After {tokens:,} training tokens:

| method | held-out loss, nats | perplexity | share of the lost nats won back | learning rate | training s |
| --- | --- | --- | --- | --- | --- |
{rows}

Cells are the mean of seeds {seeds} with the range in brackets. The seed draws the order of the text and the adapters'
start; the pruned variant is one and the same.

**Protocol.** {model}, float32, {removed:.1f} % of block parameters removed. Training and calibration: the even stories
of {text}, {held_out} of them held out by the trainer; windows of {window} tokens, batches of {batch:,} tokens, AdamW,
warm-up and cosine decay, clipping at norm 1. `distillation` trains all weights; `block_local` reads the tokens once for
each of its {stages} half layers, one at a time, which is about the work of one pass of the others. Evaluation: every
fourth story from the fourth on, {evaluation_tokens:,} predicted tokens, windows of {length} with BOS. Learning rates
are the methods' defaults; they were chosen on held-out documents of the training text, one seed, two to five values a
method; for `lora` and `distillation` the best was the highest that was tried.

**Read with care.** One model of 0.26 M parameters with little redundancy, {count} seeds (a range, not an interval), few
tokens: the methods differ in how fast they learn at first as much as in where they would end. Seconds are wall time on
a shared machine, one thread.

**Made with** {made_with}. Raw data with the loss
curves: `benchmarks/{raw}`; this page is generated from it by `benchmarks/recovery_stories260k.py --render-only`.
"""


def main() -> None:
    options = stories_parser(__doc__).parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        write_raw(STEM, measure(options.model, options.text))
    draw_page(STEM, render)


def measure(model: Path, text: Path) -> dict[str, Any]:
    """All cells. Variants are verified in this process, which is as strict as a fresh one and quicker."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        even, fourth = deal_out(text)
        training, evaluation = write_parts(scratch, {"training": even, "evaluation": fourth})
        request = CompressionRequest(
            model=str(model),
            out=scratch / "pruned",
            method="wanda_sp",
            ratio=RATIO,
            units=("ffn",),
            calibration=str(training),
            repair="none",
        )
        pruned = compress(request, verify=verify_variant)
        quality = {
            folder.name: evaluate(EvaluationRequest(model=folder, text=evaluation, length_tokens=LENGTH_TOKENS))
            for folder in (model, scratch / "pruned")
        }
        cells = [
            measure_cell(model, scratch, training, evaluation, method, seed) for method in METHODS for seed in SEEDS
        ]
    return {
        "model": model.name,
        "text": text.name,
        "dense": quality[model.name].model_dump(),
        "pruned": {"manifest": pruned.model_dump(mode="json"), "quality": quality["pruned"].model_dump()},
        "cells": cells,
        "provenance": collect_provenance().model_dump(mode="json"),
        "peft": package_versions(("peft",)),
        "threads": torch.get_num_threads(),
    }


def measure_cell(
    model: Path, scratch: Path, training: Path, evaluation: Path, method: str, seed: int
) -> dict[str, Any]:
    out = scratch / f"{method}-{seed}"
    request = RecoveryRequest(
        variant=scratch / "pruned",
        out=out,
        method=method,
        text=training,
        teacher=model,
        tokens=TOKENS,
        batch_tokens=BATCH_TOKENS,
        seed=seed,
    )
    manifest = recover(request, verify=verify_variant)
    quality = evaluate(EvaluationRequest(model=out, text=evaluation, length_tokens=LENGTH_TOKENS))
    sys.stderr.write(f"{out.name}: {quality.loss_nats:.4f} nats\n")
    assert manifest.recovery is not None
    return {
        "method": method,
        "seed": seed,
        "quality": quality.model_dump(),
        "recovery": manifest.recovery.model_dump(mode="json"),
        "curve": LossCurve.load(out / CURVE_NAME).model_dump(mode="json")["points"],
        "weights_sha256": manifest.checksums["model.safetensors"],
    }


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    cells = raw["cells"]
    recovery = cells[0]["recovery"]
    provenance = {**raw["provenance"], "versions": {**raw["provenance"]["versions"], **raw["peft"]}}
    return PAGE.format(
        before=raw["pruned"]["quality"]["loss_nats"],
        dense=raw["dense"]["loss_nats"],
        tokens=recovery["tokens"],
        rows="\n".join(_row(raw, method) for method in dict.fromkeys(cell["method"] for cell in cells)),
        seeds=", ".join(map(str, SEEDS)),
        count=len(SEEDS),
        model=raw["model"],
        removed=raw["pruned"]["manifest"]["ratios"]["params_blocks"] * 100,
        text=raw["text"],
        held_out=recovery["held_out_documents"],
        window=recovery["window_tokens"],
        batch=recovery["batch_tokens"],
        stages=max(cell["recovery"]["stages"] for cell in cells),
        evaluation_tokens=raw["dense"]["tokens"],
        length=LENGTH_TOKENS,
        made_with=made_with(provenance, ("torch", "transformers", "peft")),
        raw=STEM.with_suffix(".json").name,
    )


def _row(raw: dict[str, Any], method: str) -> str:
    cells = [cell for cell in raw["cells"] if cell["method"] == method]
    nats = [cell["quality"]["loss_nats"] for cell in cells]
    dense, before = raw["dense"]["loss_nats"], raw["pruned"]["quality"]["loss_nats"]
    columns = (
        f"`{method}`",
        f"{mean(nats):.3f} [{min(nats):.3f}, {max(nats):.3f}]",
        f"{mean(cell['quality']['perplexity'] for cell in cells):.2f}",
        f"{(before - mean(nats)) / (before - dense):.0%}",
        f"{cells[0]['recovery']['config']['learning_rate']:g}",
        f"{mean(cell['recovery']['training_s'] for cell in cells):.0f}",
    )
    return "| " + " | ".join(columns) + " |"


if __name__ == "__main__":
    main()
