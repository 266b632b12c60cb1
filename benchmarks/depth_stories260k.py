"""What do depth pruning, removed halves and a narrower residual stream cost? Measures two small models, draws a table.

    python benchmarks/depth_stories260k.py --model DIR --text FILE [--bed NAME] [--arms REGEX] [--render-only]

The first model is stories260K with its stories (even ones calibrate, every fourth from the fourth on evaluates), the
second the embedded demo model with the standard library's sources. Removed halves are evaluated in memory. Finished
cells are kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, read_raw, stories_parser, write_raw
from benchmarks.stories import deal_out, write_parts
from compressors.arch import WIDTH_UNITS
from compressors.blocks import CheckpointModel
from compressors.calibration import draw_calibration
from compressors.depth import DepthEvidence, DepthUnit
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.plan import Allocation, LayerBudget
from compressors.repair import Repair
from compressors.request import CompressionRequest
from compressors.source import load_tokenizer, open_source
from compressors.text import encode_documents, read_corpus, window_prefix
from compressors.verify import verify_variant
from modeling.python_corpus import load_corpus

STEM = Path(__file__).with_name("depth_stories260k_cpu_202611")
DEMO = Path(__file__).resolve().parent.parent / "prunebench" / "demo_model"
DEPTH_METHODS = ("block_influence", "greedy_kl", "evolutionary_depth")
SHARES = (0.125, 0.25, 0.375, 0.5)
WINDOW_TOKENS, LENGTH_TOKENS, BATCH = 256, 512, 16
SEED = 0

# Nats of the authors' own code on stories260K (dense 1.4463 on its evaluation stories), by nominal share.
REFERENCE_DENSE = 1.4463
REFERENCES = {
    "layers, `block_influence`, 1 and 2 of 5": (2.238, 4.302),
    "SliceGPT, a rotation per layer": (1.931, 2.860, 3.812, 4.544),
    "2SSP": (1.914, 2.793, 3.681, 4.407),
}

PAGE = """# Depth, halves of layers and the residual stream: what removing them costs

*Question: which removal costs least at equal parameters, and does searching pay over ranking once?*

Held-out nats **above dense**, and mean KL(dense || variant) in nats, on text that nothing was chosen on. Seed {seed}
throughout, one run a cell: read differences of a few hundredths as noise.

{tables}

Originals on stories260K, above their own dense loss of {reference_dense:.4f} (their code, another evaluation split):
{references}.

`two-stage` is FFN width first, then attention sublayers by `greedy_kl` on the narrower model (after 2SSP, arXiv
2501.17771): of all numbers of attention sublayers that reach the share of block parameters, the one with the lowest KL
on the calibration text. `hidden_slice` counts its share in hidden channels (rounded to a multiple of 8), so that
its blocks lose about the same share and the embedding as well.

**Protocol.** float32. Calibration: windows of {window} tokens ({tokens}). Evaluation: windows of {length} tokens, mean
over every token after the first. {cells} cells, median {seconds:.1f} s each with one thread on a busy shared machine.

**Made with** {made_with}. Raw data:
`benchmarks/{raw}`; this page is generated from it by `benchmarks/depth_stories260k.py --render-only`.
"""


@dataclass(frozen=True)
class Bed:
    """A model with the texts to calibrate and to judge on. Counts of removed units by kind say what is measured."""

    name: str
    folder: Path
    calibration: Path
    windows: Tensor
    evaluation: list[list[int]]
    removed: dict[DepthUnit, tuple[int, ...]]


def main() -> None:
    parser = stories_parser(__doc__)
    parser.add_argument("--bed", default="", help="measure only the models whose name contains this")
    parser.add_argument("--arms", default="", help="measure only cells whose name has this pattern")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            measure(beds(options.model, options.text, Path(scratch)), Path(scratch), options.bed, options.arms)
    draw_page(STEM, render)


def beds(model: Path, text: Path, scratch: Path) -> list[Bed]:
    even, fourth = deal_out(text)
    splits = {name: load_corpus(split).texts for name, split in (("cal", "calibration"), ("eval", "held_out"))}  # type: ignore[arg-type]
    few: dict[DepthUnit, tuple[int, ...]] = {
        "layers": (1, 2, 3),
        "attention_sublayers": (1, 2, 3),
        "ffn_sublayers": (1, 2),
    }
    more: dict[DepthUnit, tuple[int, ...]] = {"layers": (1, 2, 4), "attention_sublayers": (2, 4), "ffn_sublayers": (2,)}
    return [
        _bed("stories260K", model, even, fourth, 32768, 100_000, few, scratch),
        _bed("demo_model", DEMO, list(splits["cal"]), list(splits["eval"]), 8192, 20_000, more, scratch),
    ]


def _bed(
    name: str,
    folder: Path,
    calibration: list[str],
    evaluation: list[str],
    tokens: int,
    evaluated: int,
    removed: dict[DepthUnit, tuple[int, ...]],
    scratch: Path,
) -> Bed:
    paths = write_parts(scratch, {f"{name}-calibration": calibration, f"{name}-evaluation": evaluation})
    tokenizer = load_tokenizer(folder)
    vocabulary = int(open_source(str(folder)).config["vocab_size"])
    drawn = draw_calibration(
        str(paths[0]), tokenizer, total_tokens=tokens, window_tokens=WINDOW_TOKENS, seed=SEED, vocabulary=vocabulary
    )
    prefix, windows = window_prefix(tokenizer), []
    for ids in encode_documents(tokenizer, read_corpus(paths[1])):
        own = [prefix + ids[start : start + LENGTH_TOKENS - 1] for start in range(0, len(ids), LENGTH_TOKENS - 1)]
        windows += [window for window in own if len(window) > 1]
    kept = Random(SEED).sample(windows, len(windows))
    while sum(map(len, kept)) > evaluated:
        kept.pop()
    return Bed(name, folder, paths[0], drawn.windows, kept, removed)


def measure(beds: list[Bed], scratch: Path, only: str, pattern: str) -> None:
    """Adds the cells that are missing, saving after each."""
    raw: dict[str, Any] = {"cells": [], "provenance": collect_provenance().model_dump(mode="json"), "beds": {}}
    if STEM.with_suffix(".json").exists():
        raw = read_raw(STEM)
    for bed in beds:
        if only not in bed.name:
            continue
        dense = CheckpointModel(bed.folder, keep_resident=True)
        whole = whole_allocation(dense)
        if bed.name not in raw["beds"]:
            raw["beds"][bed.name] = {
                "dense_nats": quality(dense, dense, whole, bed.evaluation)[0],
                "calibration_tokens": bed.windows.numel(),
                "evaluation_tokens": sum(len(window) - 1 for window in bed.evaluation),
            }
        for arm, make in arms(bed, dense, scratch):
            known = {(cell["bed"], cell["arm"]) for cell in raw["cells"]}
            if (bed.name, arm) in known or not re.search(pattern, arm):
                continue
            began = time.perf_counter()
            model, allocation = make()
            seconds = time.perf_counter() - began
            nats, divergence = quality(dense, model, allocation, bed.evaluation)
            share = 1 - block_parameters(model, allocation) / block_parameters(dense, whole)
            cell = {"bed": bed.name, "arm": arm, "loss_nats": nats, "kl_nats": divergence, "blocks_removed": share}
            halves = [[budget.kv_groups, budget.ffn_channels] for budget in allocation]
            raw["cells"].append({**cell, "seconds_s": seconds, "halves": halves})
            sys.stderr.write(f"{bed.name} {arm}: {nats:.4f} nats, KL {divergence:.4f}, {seconds:.1f} s\n")
            write_raw(STEM, raw)


def arms(bed: Bed, dense: CheckpointModel, scratch: Path) -> Iterator[tuple[str, Any]]:
    """Names, and what makes a model with an allocation over it."""
    for kind, counts in bed.removed.items():
        for count in counts:
            for method in DEPTH_METHODS:
                yield (
                    f"{kind} {count} of {len(dense)}, {method}",
                    lambda m=method, k=kind, c=count: cut(bed, dense, m, k, c),
                )
    repairs: tuple[Repair, ...] = ("none", "ridge")
    for share in SHARES:
        for repair in repairs:
            yield f"hidden {share:.1%}, hidden_slice, {repair}", lambda s=share, r=repair: sliced(bed, scratch, s, r)
    for share in SHARES:
        for method, repair in (("wanda_sp", "none"), ("obs", "ridge")):
            name = f"two-stage {share:.1%}, {method}, {repair}"
            yield name, lambda s=share, m=method, r=repair: two_stage(bed, dense, scratch, s, m, r)


def cut(
    bed: Bed, model: CheckpointModel, method: str, kind: DepthUnit, count: int
) -> tuple[CheckpointModel, Allocation]:
    chosen = REGISTRY.named(method)
    evidence = DepthEvidence(
        base=whole_allocation(model), removed={kind: count}, model=model, windows=bed.windows, random=Random(SEED)
    )
    assert chosen.select_depth is not None
    return model, chosen.select_depth(chosen.config, evidence)


def sliced(bed: Bed, scratch: Path, share: float, repair: Repair) -> tuple[CheckpointModel, Allocation]:
    model = made(bed, scratch, "hidden_slice", share, repair, 8)
    return model, whole_allocation(model)


def two_stage(
    bed: Bed, dense: CheckpointModel, scratch: Path, share: float, method: str, repair: Repair
) -> tuple[CheckpointModel, Allocation]:
    """The split between FFN channels and attention sublayers that the calibration text likes best."""
    whole = whole_allocation(dense)
    blocks = block_parameters(dense, whole)
    attention = block_parameters(dense, tuple(LayerBudget(kv_groups=b.kv_groups, ffn_channels=0) for b in whole))
    found = []
    for removed in range(len(dense)):
        ratio = (share * blocks - removed * attention / len(dense)) / (blocks - attention)
        if not 0.01 < ratio < 0.9:
            continue
        narrow = made(bed, scratch, method, ratio, repair, 1)
        model, left = (
            (narrow, whole_allocation(narrow))
            if not removed
            else cut(bed, narrow, "greedy_kl", "attention_sublayers", removed)
        )
        found.append((quality(dense, model, left, bed.windows.tolist()[:32])[1], removed, model, left))
    _, _, model, left = min(found, key=lambda entry: entry[:2])
    return model, left


def made(bed: Bed, scratch: Path, method: str, ratio: float, repair: Repair, multiple: int) -> CheckpointModel:
    out = Path(tempfile.mkdtemp(dir=scratch)) / "variant"
    request = CompressionRequest(
        model=str(bed.folder),
        out=out,
        method=method,
        ratio=ratio,
        calibration=str(bed.calibration),
        calibration_tokens=bed.windows.numel(),
        window_tokens=WINDOW_TOKENS,
        seed=SEED,
        multiple_of=multiple,
        repair=repair,
    )
    compress(request, verify=verify_variant)
    return CheckpointModel(out, keep_resident=True)


def whole_allocation(model: CheckpointModel) -> Allocation:
    config = model.config
    width = LayerBudget(kv_groups=config.num_key_value_heads, ffn_channels=config.intermediate_size)
    return (width,) * len(model)


def block_parameters(model: CheckpointModel, allocation: Allocation) -> int:
    total = 0
    for index, budget in enumerate(allocation):
        layer = model.load(index)
        for unit in WIDTH_UNITS:
            if budget.count(unit):
                half = layer.attention if unit == "kv" else layer.ffn
                total += sum(p.numel() for p in (*half.parameters(), *layer.norm(unit).parameters()))
    return total


def quality(
    dense: CheckpointModel, model: CheckpointModel, allocation: Allocation, evaluation: list[list[int]]
) -> tuple[float, float]:
    """Loss and KL(dense || model), means over all predicted tokens."""
    loss = divergence = 0.0
    ordered = sorted(evaluation, key=len)
    for start in range(0, len(ordered), BATCH):
        windows = [torch.tensor(window) for window in ordered[start : start + BATCH]]
        ids = nn.utils.rnn.pad_sequence(windows, batch_first=True)
        targets = nn.utils.rnn.pad_sequence(windows, batch_first=True, padding_value=-100)[:, 1:].flatten()
        read = targets != -100
        given = log_probs(model, allocation, ids)[read]
        wanted = (
            given
            if model is dense and allocation == whole_allocation(dense)
            else (log_probs(dense, whole_allocation(dense), ids)[read])
        )
        loss -= float(given.gather(1, targets[read, None]).sum(dtype=torch.float64))
        divergence += float((wanted.exp() * (wanted - given)).sum(dtype=torch.float64))
    tokens = sum(len(window) - 1 for window in evaluation)
    return loss / tokens, divergence / tokens


def log_probs(model: CheckpointModel, allocation: Allocation, ids: Tensor) -> Tensor:
    """[tokens, V] for every position but the last of each window."""
    states, arguments = model.embed(ids[:, :-1]), model.arguments(ids.shape[1] - 1)
    for index, budget in enumerate(allocation):
        layer = model.load(index)
        for unit in WIDTH_UNITS:
            if budget.count(unit):
                states = layer.run(unit, states, arguments[index])
    return model.logits(states).log_softmax(-1).flatten(0, 1)


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    seconds = sorted(cell["seconds_s"] for cell in raw["cells"])
    references = (
        f"{name}: {' / '.join(f'{nats - REFERENCE_DENSE:.3f}' for nats in values)}"
        for name, values in REFERENCES.items()
    )
    return PAGE.format(
        seed=SEED,
        tables="\n\n".join(_table(raw, bed) for bed in raw["beds"]),
        reference_dense=REFERENCE_DENSE,
        references="; ".join(references),
        window=WINDOW_TOKENS,
        length=LENGTH_TOKENS,
        tokens=", ".join(f"{name}: {bed['calibration_tokens']:,} tokens" for name, bed in raw["beds"].items()),
        cells=len(raw["cells"]),
        seconds=seconds[len(seconds) // 2],
        made_with=made_with(raw["provenance"]),
        raw=STEM.with_suffix(".json").name,
    )


def _table(raw: dict[str, Any], name: str) -> str:
    bed = raw["beds"][name]
    head = f"**{name}** (dense {bed['dense_nats']:.4f} nats on {bed['evaluation_tokens']:,} tokens)\n\n"
    head += "| removed, method | block parameters removed | nats above dense | KL, nats | seconds |\n"
    head += "| --- | --- | --- | --- | --- |\n"
    rows = (
        f"| {cell['arm']} | {cell['blocks_removed']:.1%} | {cell['loss_nats'] - bed['dense_nats']:.3f} "
        f"| {cell['kl_nats']:.3f} | {cell['seconds_s']:.1f} |"
        for cell in raw["cells"]
        if cell["bed"] == name
    )
    return head + "\n".join(rows)


if __name__ == "__main__":
    main()
