"""Masks of single weights: what each method loses and costs, beside the authors' own code and by sparsity.

    python benchmarks/sparse_masks.py --stories MODEL TEXT [--only NAME ...] [--render-only]

stories260K is measured by the protocol of `reference_parity`, the embedded demo model on files that never trained it.
Finished cells are kept, so that an interrupted run goes on where it was; `--only` restricts to models, arms or seeds.
"""

from __future__ import annotations

import copy
import cProfile
import pstats
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.mask_page import ABLATIONS, ARMS, DRAWN, DRAWS, PATTERNS, SEEDS, STEPS, render
from benchmarks.pages import draw_page, page_parser, read_raw, write_raw
from benchmarks.reference_parity import story_nats, story_windows
from benchmarks.stories import SEPARATOR
from compressors.masking import MaskingJob
from compressors.masks import Pattern, parse_pattern
from compressors.methods import REGISTRY
from compressors.registry import Method
from compressors.resident import mask_resident
from compressors.source import load_model, load_tokenizer
from compressors.text import corpus_of, encode_documents, window_prefix
from modeling.python_corpus import Split, load_corpus

STEM = Path(__file__).with_name("sparse_masks_cpu_202611")
DEMO = Path(__file__).resolve().parent.parent / "prunebench" / "demo_model"
WINDOW_TOKENS, LENGTH_TOKENS = 256, 512
STORY_WINDOWS, DEMO_WINDOWS, DEMO_FILES = 128, 16, 16


@dataclass(frozen=True, slots=True)
class Bed:
    """A model with the windows that calibration draws `count` of, and those that judge.

    Where all of them are drawn by the first seed, further seeds draw from `anywhere`.
    """

    model: Any
    calibration: list[list[int]]
    evaluation: list[list[int]]
    count: int
    anywhere: list[list[int]] = field(default_factory=list)


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--stories", type=Path, nargs=2, metavar=("MODEL", "TEXT"), help="stories260K and its stories")
    parser.add_argument("--only", nargs="*", default=[], help="names of models, arms, patterns or seeds")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        measure(options.stories, set(options.only))
    draw_page(STEM, render)


def beds(stories: Sequence[Path] | None) -> Iterator[tuple[str, Bed]]:
    if stories is not None:
        yield "stories260K", Bed(load_model(stories[0]), *story_windows(*stories), STORY_WINDOWS)
    calibration, held_out = (_files(split) for split in ("calibration", "held_out"))
    drawn = [ids[:WINDOW_TOKENS] for ids in calibration if len(ids) >= WINDOW_TOKENS]
    anywhere = [
        ids[first : first + WINDOW_TOKENS]
        for ids in calibration
        for first in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
    ]
    judged = [ids[:LENGTH_TOKENS] for ids in held_out[:DEMO_FILES]]
    yield "demo", Bed(load_model(DEMO), drawn, judged, DEMO_WINDOWS, anywhere)


def _files(split: Split) -> list[list[int]]:
    tokenizer = load_tokenizer(DEMO)
    prefix = window_prefix(tokenizer)
    corpus = corpus_of("python", SEPARATOR.join(load_corpus(split).texts))
    return [prefix + ids for ids in encode_documents(tokenizer, corpus)]


def measure(stories: Sequence[Path] | None, only: set[str]) -> None:
    """Adds the cells that are missing, saving after each."""
    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else {"models": {}, "cells": [], "steps": {}}
    raw["provenance"] = collect_provenance().model_dump(mode="json")
    done = {(cell["model"], cell["arm"], cell["pattern"], cell["seed"]) for cell in raw["cells"]}
    grid = dict(beds(stories))
    for name, bed in grid.items():
        if name not in raw["models"]:
            raw["models"][name] = {**_judged(bed, bed.model), "calibration_tokens": bed.count * WINDOW_TOKENS}
    for name, arm, pattern, seed in _wanted(tuple(grid)):
        if (name, arm, pattern, seed) in done or not only <= {name, arm, pattern, str(seed)}:
            continue
        raw["cells"].append(measure_cell(name, grid[name], arm, pattern, seed))
        write_raw(STEM, raw)
        sys.stderr.write(f"{raw['cells'][-1]}\n")
    for name, bed in grid.items():
        if name not in raw["steps"]:
            raw["steps"][name] = step_costs(bed)
            write_raw(STEM, raw)


def _wanted(models: tuple[str, ...]) -> Iterator[tuple[str, str, str, int]]:
    """What is compared before what explains, the first seed first; what needs no text, or explains, has one seed."""
    compared = [arm for arm in ARMS if arm not in ABLATIONS]
    for seed, arms in ((0, compared), (0, list(ABLATIONS)), *((seed, compared) for seed in SEEDS[1:])):
        for model in models:
            for arm in arms:
                if seed == 0 or method_of(arm).needs_calibration:
                    yield from ((model, arm, pattern, seed) for pattern in PATTERNS)
    if "stories260K" in models:
        for arm, pattern in DRAWN:
            yield from (("stories260K", arm, pattern, seed) for seed in DRAWS if seed not in SEEDS)


def method_of(arm: str) -> Method:
    method, changes = ARMS[arm]
    chosen = REGISTRY.named(method)
    return replace(chosen, config=replace(chosen.config, **changes))


def pattern_of(name: str) -> Pattern:
    return parse_pattern(name if ":" in name else None, PATTERNS[name])


def measure_cell(name: str, bed: Bed, arm: str, pattern: str, seed: int) -> dict[str, Any]:
    """One row of the raw data; times are processor seconds of masking alone, the stream's passes included."""
    began = time.process_time()
    masked = masked_copy(bed, method_of(arm), pattern_of(pattern), seed)
    spent = time.process_time() - began
    return {
        **{"model": name, "arm": arm, "pattern": pattern, "seed": seed},
        "loss_nats": _judged(bed, masked)["loss_nats"],
        "zeros": zero_share(masked),
        "cpu_s": spent,
    }


def masked_copy(bed: Bed, method: Method, pattern: Pattern, seed: int) -> Any:
    model = copy.deepcopy(bed.model)
    pool = bed.anywhere if seed and bed.anywhere else bed.calibration
    windows = torch.tensor(Random(seed).sample(pool, min(bed.count, len(pool))))
    mask_resident(model, MaskingJob(method=method, pattern=pattern), windows)
    return model


def zero_share(model: Any) -> float:
    """Of the weights of all matrices in the blocks."""
    matrices: list[Tensor] = [tensor for tensor in model.model.layers.parameters() if tensor.ndim == 2]
    return sum(int((each == 0).sum()) for each in matrices) / sum(each.numel() for each in matrices)


def _judged(bed: Bed, model: Any) -> dict[str, Any]:
    tokens = sum(len(window) - 1 for window in bed.evaluation)
    return {"loss_nats": float(story_nats(model, bed.evaluation).sum()) / tokens, "evaluation_tokens": tokens}


def step_costs(bed: Bed) -> dict[str, float]:
    """Seconds of one run of `sparsellm` at 70 % by step, from the profiler; and of the rest of the run."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(masked_copy, bed, method_of("sparsellm"), Pattern(0.7), 0)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    seconds = {function: row[3] for (_, _, function), row in stats.items() if function in (*STEPS, "masked_copy")}
    return {function: seconds[function] for function in (*STEPS, "masked_copy")}


if __name__ == "__main__":
    main()
