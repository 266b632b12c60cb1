"""Every method, repaired or not, uniform or searched, at equal parameters of the decoder blocks.

    python benchmarks/methods_grid.py --stories MODEL TEXT [--only NAME ...] [--workers 2] [--render-only]

Each cell is one `compress` and one `evaluate` as a user would run them. Finished cells are kept, so that an interrupted
run goes on where it was; `--only` restricts to models, methods, repairs or allocations by name.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from artifacts.variant import Unit
from benchmarks.pages import draw_page, made_with, page_parser, read_raw, write_raw
from benchmarks.stories import deal_out, write_parts
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.repair import Repair
from compressors.request import BudgetKind, CompressionRequest
from compressors.verify import verify_variant
from modeling.python_corpus import load_corpus

Arm = tuple[str, Repair, str]

STEM = Path(__file__).with_name("methods_grid_cpu_202611")
DEMO = Path(__file__).resolve().parent.parent / "prunebench" / "demo_model"
RATIOS = (0.25, 0.5, 0.125, 0.375)
ALLOCATIONS = ("uniform", "dynamic_programme", "evolutionary")
# Measured for the flagship's method alone.
OTHER_ALLOCATIONS = ("depth_increasing", "influence_softmax", "global_threshold")
FLAGSHIP: Arm = ("obs", "ridge", "evolutionary")
FLAGSHIP_SEEDS = (0, 1, 2)
EVALUATED_TOKENS = 20_000
_REPAIRS: tuple[Repair, ...] = ("ridge", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was asked; ratio is of the blocks' parameters."""

    model: str
    method: str
    repair: Repair
    allocation: str
    ratio: float
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A model with the text that calibrates and the text that judges."""

    name: str
    folder: Path
    calibration: Path
    held_out: Path
    calibration_tokens: int


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--stories", type=Path, nargs=2, metavar=("MODEL", "TEXT"), help="stories260K and its stories")
    parser.add_argument("--only", nargs="*", default=[], help="names of models, methods, repairs or allocations")
    parser.add_argument("--workers", type=int, default=1, help="cells at a time, one thread each")
    options = parser.parse_args()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(beds(Path(folder), options.stories), set(options.only), Path(folder), options.workers)
    draw_page(STEM, render)


def beds(folder: Path, stories: list[Path] | None) -> list[Bed]:
    """stories260K where it is given, and the embedded demo model on files that never trained it."""
    corpora = [load_corpus(split).texts for split in ("calibration", "held_out")]
    found = [_bed(folder, "demo", DEMO, 8192, *corpora)]
    if stories is not None:
        found.insert(0, _bed(folder, "stories260K", stories[0], 32768, *deal_out(stories[1])))
    return found


def _bed(folder: Path, name: str, model: Path, tokens: int, calibration: Any, held_out: Any) -> Bed:
    paths = write_parts(folder, {f"{name}-calibration": calibration, f"{name}-held-out": held_out})
    return Bed(name=name, folder=model, calibration=paths[0], held_out=paths[1], calibration_tokens=tokens)


def cells(beds: list[Bed]) -> Iterator[tuple[Bed, Cell]]:
    """The cheap ones first, so that an interrupted run has whole columns; the flagship leads among the searched."""
    for allocation in (*ALLOCATIONS, *OTHER_ALLOCATIONS):
        for method, repair in sorted(_planned(allocation), key=lambda arm: (*arm, allocation) != FLAGSHIP):
            seeds = FLAGSHIP_SEEDS if (method, repair, allocation) == FLAGSHIP else (0,)
            for bed in beds:
                for ratio in RATIOS:
                    for seed in seeds:
                        cell = Cell(
                            model=bed.name, method=method, repair=repair, allocation=allocation, ratio=ratio, seed=seed
                        )
                        yield bed, cell


def _planned(allocation: str) -> Iterator[tuple[str, Repair]]:
    if allocation in OTHER_ALLOCATIONS:
        yield FLAGSHIP[:2]
        return
    for repair in _REPAIRS:
        for name in REGISTRY.names:
            method = REGISTRY.named(name)
            if method.masks:  # it leaves every parameter where it is; see sparse_masks
                continue
            if (repair == "none" or method.can_be_repaired) and (
                allocation == "uniform" or method.rank_width is not None
            ):
                yield name, repair


def measure(beds: list[Bed], only: set[str], folder: Path, workers: int) -> None:
    """Adds the cells that are missing, saving after each."""
    raw = _begun(beds)
    done = {tuple(row["cell"].values()) for row in raw["rows"]}
    wanted = [
        (bed, cell)
        for bed, cell in cells(beds)
        if tuple(asdict(cell).values()) not in done and only <= {str(value) for value in asdict(cell).values()}
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = [
            pool.submit(measure_cell, bed, cell, folder / str(number)) for number, (bed, cell) in enumerate(wanted)
        ]
        for finished, future in enumerate(as_completed(running), start=1):
            raw["rows"].append({**future.result(), "commit": raw["provenance"]["commit"]})
            write_raw(STEM, raw)
            sys.stderr.write(f"{finished} of {len(wanted)}: {raw['rows'][-1]['cell']}\n")


def _begun(beds: list[Bed]) -> dict[str, Any]:
    begun = read_raw(STEM) if STEM.with_suffix(".json").is_file() else {"dense": {}, "rows": []}
    for bed in beds:
        begun["dense"][bed.name] = _quality(bed, bed.folder)
    return begun | {"provenance": collect_provenance().model_dump(mode="json")}


def measure_cell(bed: Bed, cell: Cell, out: Path) -> dict[str, Any]:
    """One row of the raw data. Runs in a process of its own, whose processor time is the cell's."""
    method = REGISTRY.named(cell.method)
    widths: tuple[Unit, ...] = tuple(unit for unit in ("kv", "ffn") if unit in method.units)
    budget: BudgetKind = "params" if method.rank_width is not None or method.learns else "units"
    request = CompressionRequest(
        model=str(bed.folder),
        out=out,
        method=cell.method,
        ratio=cell.ratio,
        units=widths or method.units[:1],
        calibration=str(bed.calibration),
        calibration_tokens=bed.calibration_tokens,
        repair=cell.repair,
        allocation=cell.allocation,
        budget=budget,
        multiple_of=1,
        seed=cell.seed,
    )
    began = time.process_time()
    manifest = compress(request, verify=verify_variant)
    spent = time.process_time() - began
    quality = _quality(bed, out)
    shutil.rmtree(out)
    return {
        "cell": asdict(cell),
        **quality,
        "params_blocks_ratio": manifest.ratios.params_blocks,
        "cpu_s": spent,
        "peak_memory_bytes": manifest.cost.peak_memory_bytes,
        "layers": [[layer.kv_heads, layer.ffn_width] for layer in manifest.layers],
    }


def _quality(bed: Bed, folder: Path) -> dict[str, float | None]:
    found = evaluate(
        EvaluationRequest(model=folder, text=bed.held_out, reference=bed.folder, max_tokens=EVALUATED_TOKENS)
    )
    return {
        "loss_nats": found.loss_nats,
        "kl_nats": found.kl_nats,
        "js_nats": found.js_nats,
        "tokens": found.tokens,
    }


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    lines = [
        "# All methods at equal block parameters",
        "",
        f"Held-out nats above dense (KL to dense in brackets) on {EVALUATED_TOKENS:,} predicted tokens, windows of "
        "512; calibration on other documents, 32,768 tokens for stories260K and 8,192 for the demo model; the least of "
        "a column is bold. A share of the decoder blocks' parameters goes (depth and hidden slicing: of layers and "
        "hidden channels, which is the same share). Searched are `--allocation dynamic_programme` and `evolutionary`; "
        "depth and hidden slicing have no widths to search over. One run a cell, mean of "
        f"{len(FLAGSHIP_SEEDS)} seeds for the flagship ({', '.join(FLAGSHIP)}), "
        "whose range is given below each table. Times are processor seconds of one thread without the evaluation, "
        "peaks those of the whole process. Empty cells were not measured.",
        "",
        f"Made with {made_with(raw['provenance'])}; the raw data names each row's commit.",
    ]
    for model, dense in raw["dense"].items():
        lines += ["", f"## {model}, dense {dense['loss_nats']:.3f} nats", "", *_table(raw, model), ""]
        lines += [verdict(raw, model, ratio) for ratio in sorted(RATIOS)]
    return "\n".join(lines) + "\n"


def excess(raw: dict[str, Any], arm: Arm, *, model: str, ratio: float) -> list[float]:
    """Nats above dense, one per seed measured."""
    own = _own(raw, model, arm, ratio)
    return [row["loss_nats"] - raw["dense"][model]["loss_nats"] for row in own]


def arms(raw: dict[str, Any], model: str) -> list[Arm]:
    found = {_arm(row) for row in raw["rows"] if row["cell"]["model"] == model}
    return sorted(
        found, key=lambda arm: ((*ALLOCATIONS, *OTHER_ALLOCATIONS).index(arm[2]), REGISTRY.names.index(arm[0]), arm[1])
    )


def verdict(raw: dict[str, Any], model: str, ratio: float) -> str:
    """Where the flagship stands in a column, and who is worse than random units that were treated alike."""
    own = excess(raw, FLAGSHIP, model=model, ratio=ratio)
    column = {arm: median(nats) for arm in arms(raw, model) if (nats := excess(raw, arm, model=model, ratio=ratio))}
    worse = [" ".join(arm) for arm in column if column[arm] > column.get(("random", *arm[1:]), float("inf"))]
    if not own:
        return f"* {ratio:.1%}: the flagship was not measured."
    others = {arm: nats for arm, nats in column.items() if arm != FLAGSHIP}
    best = min(others, key=others.__getitem__)
    place = "best" if max(own) < others[best] else "level with the best" if min(own) <= others[best] else "not best"
    return (
        f"* {ratio:.1%}: the flagship is {place}, {min(own):.3f} to {max(own):.3f}; best of the others "
        f"{' '.join(best)}, {others[best]:.3f}. Worse than random treated alike: {', '.join(worse) or 'none'}."
    )


def _table(raw: dict[str, Any], model: str) -> Iterator[str]:
    ratios, dense = sorted(RATIOS), raw["dense"][model]["loss_nats"]
    header = ["method", "repair", "allocation", *(f"{ratio:.1%}" for ratio in ratios), "median CPU s", "peak MiB"]
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---"] * len(header)) + " |"
    means = {(arm, ratio): _means(raw, model, arm, ratio) for arm in arms(raw, model) for ratio in ratios}
    least = {ratio: min(mean[0] for (_, at), mean in means.items() if at == ratio and mean) for ratio in ratios}
    for arm in arms(raw, model):
        own = [row for ratio in ratios for row in _own(raw, model, arm, ratio)]
        values = [_value(means[arm, ratio], dense, least[ratio]) for ratio in ratios]
        cost = [
            f"{median(row['cpu_s'] for row in own):.1f}",
            f"{max(row['peak_memory_bytes'] for row in own) / 2**20:.0f}",
        ]
        yield "| " + " | ".join([f"`{arm[0]}`", *arm[1:], *values, *cost]) + " |"


def _own(raw: dict[str, Any], model: str, arm: Arm, ratio: float) -> list[dict[str, Any]]:
    return [
        row
        for row in raw["rows"]
        if row["cell"]["model"] == model and row["cell"]["ratio"] == ratio and _arm(row) == arm
    ]


def _arm(row: dict[str, Any]) -> Arm:
    cell = row["cell"]
    return cell["method"], cell["repair"], cell["allocation"]


def _means(raw: dict[str, Any], model: str, arm: Arm, ratio: float) -> tuple[float, float] | None:
    """Loss and KL divergence over the seeds measured."""
    own = _own(raw, model, arm, ratio)
    return (fmean(row["loss_nats"] for row in own), fmean(row["kl_nats"] for row in own)) if own else None


def _value(means: tuple[float, float] | None, dense: float, least: float) -> str:
    if means is None:
        return ""
    text = f"{means[0] - dense:.3f} ({means[1]:.3f})"
    return f"**{text}**" if means[0] == least else text


if __name__ == "__main__":
    main()
