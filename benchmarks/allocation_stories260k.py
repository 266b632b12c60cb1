"""Does it pay to spread a budget over layers? Measures allocations on a tiny trained model at equal block parameters.

    python benchmarks/allocation_stories260k.py --model DIR --text FILE [--seeds 0 1] [--render-only]

The text's stories are dealt out by position: even ones calibrate and judge candidates, every fourth from the fourth on
evaluates. Finished cells are kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.files import write_text_atomically
from artifacts.provenance import collect_provenance
from artifacts.variant import Unit
from compressors.allocation import allocator_named
from compressors.allocation.opening import open_target
from compressors.allocation.problem import Problem
from compressors.methods import REGISTRY
from compressors.resident import ResidentModel, prune_resident
from compressors.sequential import PruningJob
from compressors.source import Source, load_model, load_tokenizer, open_source
from compressors.text import encode_documents, read_corpus, window_prefix

STEM = Path(__file__).with_name("allocation_stories260k_cpu_202611")
METHOD = "obs"
RATIOS = (0.25, 0.5, 0.125, 0.375)
BOTH: tuple[Unit, ...] = ("kv", "ffn")
ARMS: tuple[tuple[str, tuple[Unit, ...]], ...] = (
    ("uniform", ("ffn",)),
    ("uniform", BOTH),
    ("dynamic_programme", BOTH),
    ("evolutionary", BOTH),
    ("depth_increasing", BOTH),
    ("influence_softmax", BOTH),
    ("global_threshold", BOTH),
)
WINDOWS, WINDOW_TOKENS, BATCH = 128, 256, 16

PAGE = """# Allocations on stories260K

*Question: at equal parameters of the decoder blocks, does spreading the budget over layers lower the held-out loss?*
{answer}

Held-out nats **above dense** (KL divergence to dense in brackets), mean of the seeds measured:

| allocation | units | {ratios} | CPU seconds (median) |
| --- | --- | {rule} | --- |
{rows}

Shapes the search found (KV groups / FFN channels by layer, seed {seed}; dense 4/172):

{shapes}

**Protocol.** {model}, float32, dense {dense_nats:.4f} nats. Units chosen by `{method}`, ridge repair, every layer on
the pruned stream. Calibration: {windows} stories of {window_tokens} tokens or more from the even stories of {text},
BOS in front, first {window_tokens} tokens each; the search judges its candidates on the same windows. Evaluation:
stories of {window_tokens} tokens or more of every fourth from the fourth on, first {window_tokens} tokens,
{evaluation_tokens:,} predicted tokens. Seeds measured: {seeds}; the seed draws the windows and the search's random
numbers. A budget of R means that at most 1 - R of the blocks' parameters stay, norms included. Cells without a value
were not measured.

**Read with care.** One model of 0.26 M parameters; stories to calibrate and to evaluate come from one corpus.

**Made with** {cpu}, {cores} cores, {system}, Python {python}, one thread, commit {commit}. Raw data:
`benchmarks/{raw}`; this page is generated from it by `benchmarks/allocation_stories260k.py --render-only`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of stories260K")
    parser.add_argument("--text", type=Path, help="stories separated by <|endoftext|> lines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--render-only", action="store_true", help="draw the page from the raw data again")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        measure(options.model, options.text, options.seeds)
    raw = json.loads(STEM.with_suffix(".json").read_text(encoding="utf-8"))
    STEM.with_suffix(".md").write_text(render(raw), encoding="utf-8")


class Bench:
    """The model, both halves of the text, and the dense model's predictions."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.source: Source = open_source(str(folder))
        self.dense = load_model(folder)
        tokenizer = load_tokenizer(folder)
        prefix = window_prefix(tokenizer)
        stories = [prefix + ids for ids in encode_documents(tokenizer, read_corpus(text))]
        long = [
            [ids for ids in stories[part] if len(ids) >= WINDOW_TOKENS]
            for part in (slice(0, None, 2), slice(3, None, 4))
        ]
        self.calibration, self._evaluation = ([ids[:WINDOW_TOKENS] for ids in part] for part in long)
        self._wanted = [self._log_probs(self.dense, batch) for batch in self._batches()]

    def windows(self, seed: int) -> Tensor:
        return torch.tensor(Random(seed).sample(self.calibration, WINDOWS))

    def quality(self, model: Any) -> dict[str, float]:
        tokens, loss, kl = 0, 0.0, 0.0
        for batch, wanted in zip(self._batches(), self._wanted, strict=True):
            given = self._log_probs(model, batch)
            tokens += batch[:, 1:].numel()
            loss -= float(given.gather(-1, batch[:, 1:, None]).double().sum())
            kl += float((wanted.exp() * (wanted - given)).double().sum())
        return {"tokens": tokens, "loss_nats": loss / tokens, "kl_nats": kl / tokens}

    def _batches(self) -> list[Tensor]:
        return list(torch.tensor(self._evaluation).split(BATCH))

    @torch.inference_mode()
    def _log_probs(self, model: Any, batch: Tensor) -> Tensor:
        """[windows, predicted tokens, vocabulary]."""
        return model(input_ids=batch[:, :-1], use_cache=False).logits.log_softmax(-1)


def measure(folder: Path, text: Path, seeds: list[int]) -> None:
    bench = Bench(folder, text)
    facts = {
        "model": folder.name,
        "text": text.name,
        "dense": bench.quality(bench.dense),
        "provenance": collect_provenance().model_dump(mode="json"),
    }
    for seed in seeds:
        for ratio in RATIOS:
            for name, units in ARMS:
                if not _find(_cells(), name, units, ratio, seed):
                    cell = measure_cell(bench, name, units, ratio, seed)
                    write_text_atomically(
                        STEM.with_suffix(".json"), json.dumps({**facts, "cells": [*_cells(), cell]}, indent=1) + "\n"
                    )


def measure_cell(bench: Bench, name: str, units: tuple[Unit, ...], ratio: float, seed: int) -> dict[str, Any]:
    target = open_target(bench.source, "params", ratio, units, 1, None)
    job = PruningJob(
        method=REGISTRY.named(METHOD),
        units=units,
        allocation=target.space.dense_allocation,
        repair="ridge",
        seed=seed,
    )
    model, windows, allocator = copy.deepcopy(bench.dense), bench.windows(seed), allocator_named(name)
    problem = Problem(target=target, model=ResidentModel(bench.dense), job=job, windows=windows)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    allocation = allocator.allocate(allocator.config, problem)
    seconds = {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - cpu_s}
    prune_resident(
        model, PruningJob(method=job.method, units=units, allocation=allocation, repair="ridge", seed=seed), windows
    )
    quality = bench.quality(model)
    sys.stderr.write(f"{name} {units} {ratio} seed {seed}: {quality['loss_nats']:.4f} nats\n")
    shape = [[layer.kv_groups, layer.ffn_channels] for layer in allocation]
    used = target.costs.of(allocation) / target.limit
    return {
        **{"allocation": name, "units": list(units), "ratio": ratio, "seed": seed, "quality": quality},
        **{"shape": shape, "budget_used": used, "config": allocator.resolved_config, **seconds},
    }


def _cells() -> list[dict[str, Any]]:
    path = STEM.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []


def _find(
    cells: list[dict[str, Any]], name: str, units: tuple[Unit, ...], ratio: float, seed: int | None = None
) -> list[dict[str, Any]]:
    return [
        cell
        for cell in cells
        if (cell["allocation"], tuple(cell["units"]), cell["ratio"]) == (name, units, ratio)
        and seed in (None, cell["seed"])
    ]


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    cells, made_with = raw["cells"], raw["provenance"]
    seeds = sorted({cell["seed"] for cell in cells})
    ratios = sorted(RATIOS)
    return PAGE.format(
        answer=_answer(cells),
        ratios=" | ".join(f"{ratio:.1%}" for ratio in ratios),
        rule=" | ".join("---" for _ in ratios),
        rows="\n".join(_row(raw, name, units, ratios) for name, units in ARMS),
        seed=seeds[0],
        shapes="\n".join(_shape(cells, ratio, seeds[0]) for ratio in ratios),
        model=raw["model"],
        dense_nats=raw["dense"]["loss_nats"],
        method=METHOD,
        windows=WINDOWS,
        window_tokens=WINDOW_TOKENS,
        text=raw["text"],
        evaluation_tokens=raw["dense"]["tokens"],
        seeds=", ".join(map(str, seeds)),
        cpu=made_with["cpu"],
        cores=made_with["cpu_cores"],
        system=made_with["system"],
        python=made_with["python"],
        commit=(made_with["commit"] or "unknown")[:12] + (" with changes" if made_with["commit_dirty"] else ""),
        raw=STEM.with_suffix(".json").name,
    )


def _answer(cells: list[dict[str, Any]]) -> str:
    """Counts pairs of equal ratio and seed: the search against both uniform arms."""
    searched = [cell for cell in cells if cell["allocation"] == "evolutionary"]
    pairs = [
        (found, control)
        for found in searched
        for units in (("ffn",), BOTH)
        for control in _find(cells, "uniform", units, found["ratio"], found["seed"])
    ]
    won = sum(found["quality"]["loss_nats"] < control["quality"]["loss_nats"] for found, control in pairs)
    verdict = "Yes" if pairs and won == len(pairs) else "Not always"
    return f"**{verdict}: the search is below the uniform one in {won} of {len(pairs)} pairs (units, ratio, seed).**"


def _row(raw: dict[str, Any], name: str, units: tuple[Unit, ...], ratios: list[float]) -> str:
    entries, seconds = [], []
    for ratio in ratios:
        found = _find(raw["cells"], name, units, ratio)
        seconds += [cell["cpu_s"] for cell in found]
        lost = [cell["quality"]["loss_nats"] - raw["dense"]["loss_nats"] for cell in found]
        kl = [cell["quality"]["kl_nats"] for cell in found]
        entries.append(f"{mean(lost):.3f} ({mean(kl):.3f})" if found else "")
    median = f"{sorted(seconds)[len(seconds) // 2]:.0f}" if seconds else ""
    return f"| `{name}` | {', '.join(units)} | {' | '.join(entries)} | {median} |"


def _shape(cells: list[dict[str, Any]], ratio: float, seed: int) -> str:
    found = _find(cells, "evolutionary", BOTH, ratio, seed)
    layers = ", ".join(f"{groups}/{channels}" for groups, channels in found[0]["shape"]) if found else "not measured"
    return f"* {ratio:.1%}: {layers}"


if __name__ == "__main__":
    main()
