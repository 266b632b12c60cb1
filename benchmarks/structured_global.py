"""Structured SparseLLM, one block at a time and several together, against the flagship of the methods grid.

    python benchmarks/structured_global.py --stories MODEL TEXT [--only NAME ...] [--render-only]

Text, widths and the flagship's own losses are those of `methods_grid`, whose record this reads: an arm is pruned either
to the uniform widths or to those that the flagship's search found, so that what differs is the method alone. Finished
cells are kept, so that an interrupted run goes on where it was; `--only` restricts to models, arms, seeds or ratios.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks import methods_grid
from benchmarks.global_page import ARMS, RATIOS, SEEDS, Arm, flagship_rows, render
from benchmarks.methods_grid import EVALUATED_TOKENS, Bed, Cell, beds
from benchmarks.pages import draw_page, page_parser, read_raw, write_raw
from compressors.calibration import draw_calibration
from compressors.methods import REGISTRY
from compressors.peak_memory import peak_bytes, restart_peak
from compressors.plan import Allocation, LayerBudget
from compressors.quality import Sums, add_window, evaluation_windows
from compressors.resident import prune_resident
from compressors.sequential import PruningJob
from compressors.source import load_model, load_tokenizer, open_source
from compressors.text import read_corpus

STEM = Path(__file__).with_name("structured_global_cpu_202611")
WINDOW_TOKENS, LENGTH_TOKENS = 256, 512


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--stories", type=Path, nargs=2, metavar=("MODEL", "TEXT"), help="stories260K and its stories")
    parser.add_argument("--only", nargs="*", default=[], help="names of models, arms, seeds or ratios")
    options = parser.parse_args()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(beds(Path(folder), options.stories), set(options.only), Path(folder))
    draw_page(STEM, render)


def measure(grid: list[Bed], only: set[str], folder: Path) -> None:
    """Adds the cells that are missing, saving after each; each runs in a process of its own."""
    taken = read_raw(methods_grid.STEM)
    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else {"rows": []}
    raw |= {"dense": taken["dense"], "flagship": flagship_rows(taken["rows"])}
    raw["provenance"] = collect_provenance().model_dump(mode="json")
    done = {(row["model"], row["arm"], row["ratio"], row["seed"]) for row in raw["rows"]}
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")  # what is imported is there, and the peak is the cell's own
    for number, (bed, arm, ratio, seed) in enumerate(_wanted({bed.name: bed for bed in grid})):
        if (bed.name, arm, ratio, seed) in done or not only <= {bed.name, arm, str(ratio), str(seed)}:
            continue
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            asked = (bed, ARMS[arm], ratio, seed, taken["rows"], folder / str(number))
            row = pool.submit(measure_cell, *asked).result()
        raw["rows"].append({"model": bed.name, "arm": arm, "ratio": ratio, "seed": seed, **row})
        write_raw(STEM, raw)
        sys.stderr.write(f"{raw['rows'][-1]}\n")


def _wanted(grid: dict[str, Bed]) -> Iterator[tuple[Bed, str, float, int]]:
    """The first seed of everything first, the cheap model before the dear one; the demo has one seed."""
    for seed in SEEDS:
        for name, bed in grid.items():
            if seed and name == "demo":
                continue
            for ratio in RATIOS:
                yield from ((bed, arm, ratio, seed) for arm in ARMS)


def measure_cell(
    bed: Bed, arm: Arm, ratio: float, seed: int, grid_rows: list[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """One row of the raw data; processor seconds and the peak are of pruning alone, at widths that are given."""
    if arm.widths not in ("uniform", "flagship"):
        cell = Cell(model=bed.name, method=arm.method, repair="ridge", allocation=arm.widths, ratio=ratio, seed=seed)
        found = methods_grid.measure_cell(bed, cell, out)
        return {key: found[key] for key in ("loss_nats", "kl_nats", "cpu_s", "peak_memory_bytes")}
    allocation = widths_of(grid_rows, bed.name, arm.widths, ratio, seed)
    source, tokenizer = open_source(str(bed.folder)), load_tokenizer(bed.folder)
    calibration = draw_calibration(
        str(bed.calibration),
        tokenizer,
        total_tokens=bed.calibration_tokens,
        window_tokens=WINDOW_TOKENS,
        seed=seed,
        vocabulary=int(source.config["vocab_size"]),
    )
    job = PruningJob(
        method=REGISTRY.named(arm.method),
        units=("kv", "ffn"),
        allocation=allocation,
        repair="ridge",
        seed=seed,
        dtype=source.dtype,
        together=arm.together,
    )
    model = load_model(bed.folder)
    restart_peak()
    began = time.process_time()
    prune_resident(model, job, calibration.windows)
    spent, peak = time.process_time() - began, peak_bytes()
    return {**_judged(bed, model, tokenizer), "cpu_s": spent, "peak_memory_bytes": peak}


def widths_of(rows: list[dict[str, Any]], model: str, widths: str, ratio: float, seed: int) -> Allocation:
    """What the grid's uniform cell, or the flagship's of this seed, kept of every layer."""
    allocation = "uniform" if widths == "uniform" else methods_grid.FLAGSHIP[2]
    asked = {"model": model, "method": "obs", "repair": "ridge", "allocation": allocation, "ratio": ratio}
    asked["seed"] = 0 if widths == "uniform" else seed
    (row,) = (row for row in rows if row["cell"] == asked)
    return tuple(LayerBudget(kv_groups=kv, ffn_channels=ffn) for kv, ffn in row["layers"])


def _judged(bed: Bed, model: Any, tokenizer: Any) -> dict[str, float]:
    """As `evaluate` does it for the grid."""
    windows = evaluation_windows(tokenizer, read_corpus(bed.held_out), LENGTH_TOKENS, EVALUATED_TOKENS)
    reference, sums = load_model(bed.folder), Sums()
    with torch.inference_mode():
        for window in windows:
            add_window(sums, model, reference, torch.tensor([window]))
    return {"loss_nats": sums.loss_nats / sums.tokens, "kl_nats": sums.kl_nats / sums.tokens}


if __name__ == "__main__":
    main()
