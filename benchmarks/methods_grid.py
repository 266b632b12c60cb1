"""Every method, repaired or not, uniform or searched, at equal parameters of the decoder blocks.

    python benchmarks/methods_grid.py --stories MODEL TEXT [--only NAME ...] [--render-only]

Each cell is one `compress` and one `evaluate` as a user would run them. Finished cells are kept, so that an interrupted
run goes on where it was; `--only` restricts to models, methods, repairs or allocations by name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.files import write_text_atomically
from artifacts.provenance import collect_provenance
from artifacts.variant import Unit
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.repair import Repair
from compressors.request import BudgetKind, CompressionRequest
from compressors.verify import verify_variant
from modeling.python_corpus import load_corpus

STEM = Path(__file__).with_name("methods_grid_cpu_202611")
DEMO = Path(__file__).resolve().parent.parent / "prunebench" / "demo_model"
RATIOS = (0.25, 0.5, 0.125, 0.375)
EVALUATED_TOKENS = 20_000
SEPARATOR = "\n<|endoftext|>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was asked; ratio is of the blocks' parameters."""

    model: str
    method: str
    repair: Repair
    allocation: str
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A model with the text that calibrates and the text that judges."""

    name: str
    folder: Path
    calibration: Path
    held_out: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=Path, nargs=2, metavar=("MODEL", "TEXT"), help="stories260K and its stories")
    parser.add_argument("--only", nargs="*", default=[], help="names of models, methods, repairs or allocations")
    parser.add_argument("--render-only", action="store_true", help="draw the page from the raw data again")
    options = parser.parse_args()
    raw = read_raw()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(beds(Path(folder), options.stories), set(options.only), Path(folder), raw)
    STEM.with_suffix(".md").write_text(render(raw), encoding="utf-8")


def beds(folder: Path, stories: list[Path] | None) -> list[Bed]:
    """stories260K where it is given, and the embedded demo model on files that never trained it."""
    corpora = [load_corpus(split).texts for split in ("calibration", "held_out")]
    found = [_bed(folder, "demo", DEMO, *corpora)]
    if stories is not None:
        documents = stories[1].read_text(encoding="utf-8").split(SEPARATOR)
        found.insert(0, _bed(folder, "stories260K", stories[0], documents[::2], documents[3::4]))
    return found


def _bed(folder: Path, name: str, model: Path, calibration: Any, held_out: Any) -> Bed:
    paths = [folder / f"{name}-{part}.txt" for part in ("calibration", "held_out")]
    for path, documents in zip(paths, (calibration, held_out), strict=True):
        path.write_text(SEPARATOR.join(documents), encoding="utf-8")
    return Bed(name=name, folder=model, calibration=paths[0], held_out=paths[1])


def cells(beds: list[Bed]) -> Iterator[tuple[Bed, Cell]]:
    """The cheap ones first, so that an interrupted run has whole columns."""
    for allocation in ("uniform", "evolutionary"):
        for bed in beds:
            for ratio in RATIOS:
                for name in REGISTRY.names:
                    for repair in _repairs(name):
                        if allocation == "uniform" or REGISTRY.named(name).rank_width is not None:
                            yield (
                                bed,
                                Cell(model=bed.name, method=name, repair=repair, allocation=allocation, ratio=ratio),
                            )


def _repairs(name: str) -> tuple[Repair, ...]:
    return ("ridge", "none") if REGISTRY.named(name).can_be_repaired else ("none",)


def measure(beds: list[Bed], only: set[str], folder: Path, raw: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    raw["provenance"] = collect_provenance().model_dump(mode="json")
    for bed in beds:
        raw["dense"][bed.name] = _quality(bed, bed.folder)
    done = {tuple(row["cell"].values()) for row in raw["rows"]}
    for bed, cell in cells(beds):
        asked = asdict(cell)
        if tuple(asked.values()) in done or not only <= {str(value) for value in asked.values()}:
            continue
        raw["rows"].append({"cell": asked, **_measure_cell(bed, cell, folder / "variant")})
        write_text_atomically(STEM.with_suffix(".json"), json.dumps(raw, indent=1) + "\n")
        STEM.with_suffix(".md").write_text(render(raw), encoding="utf-8")


def _measure_cell(bed: Bed, cell: Cell, out: Path) -> dict[str, Any]:
    method = REGISTRY.named(cell.method)
    widths: tuple[Unit, ...] = tuple(unit for unit in ("kv", "ffn") if unit in method.units)
    budget: BudgetKind = "params" if method.rank_width is not None else "units"
    request = CompressionRequest(
        model=str(bed.folder),
        out=out,
        method=cell.method,
        ratio=cell.ratio,
        units=widths or method.units[:1],
        calibration=str(bed.calibration),
        repair=cell.repair,
        allocation=cell.allocation,
        budget=budget,
        multiple_of=1,
    )
    manifest = compress(request, verify=verify_variant)
    measured = _quality(bed, out) | {
        "params_blocks_ratio": manifest.ratios.params_blocks,
        "wall_s": manifest.cost.wall_s,
        "peak_memory_bytes": manifest.cost.peak_memory_bytes,
        "layers": [[layer.kv_heads, layer.ffn_width] for layer in manifest.layers],
    }
    shutil.rmtree(out)
    return measured


def _quality(bed: Bed, folder: Path) -> dict[str, float | None]:
    found = evaluate(
        EvaluationRequest(model=folder, text=bed.held_out, reference=bed.folder, max_tokens=EVALUATED_TOKENS)
    )
    return {"loss_nats": found.loss_nats, "kl_nats": found.kl_nats, "tokens": found.tokens}


def read_raw() -> dict[str, Any]:
    path = STEM.with_suffix(".json")
    empty: dict[str, Any] = {"dense": {}, "provenance": {}, "rows": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else empty


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    machine = raw["provenance"]
    lines = [
        "# All methods at equal block parameters",
        "",
        f"Held-out nats above dense (KL to dense in brackets) on {EVALUATED_TOKENS:,} predicted tokens, windows of "
        "512; one seed, one run a cell; calibration 32,768 tokens of other documents. A share of the decoder blocks' "
        "parameters goes (depth and hidden slicing: of layers and hidden channels, which is the same share). Searched "
        f"is `--allocation evolutionary`. {machine.get('cpu')}, one thread, torch {_torch(machine)}, commit "
        f"{machine.get('commit')}. Empty cells were not measured.",
    ]
    for model, dense in raw["dense"].items():
        lines += ["", f"## {model}, dense {dense['loss_nats']:.3f} nats", "", *_table(raw, model)]
    return "\n".join(lines) + "\n"


def _torch(machine: dict[str, Any]) -> str:
    return str(machine.get("versions", {}).get("torch"))


def _table(raw: dict[str, Any], model: str) -> list[str]:
    ratios = sorted(RATIOS)
    header = ["method", "repair", "allocation", *(f"{ratio:.1%}" for ratio in ratios), "median s", "peak MiB"]
    rows = [row for row in raw["rows"] if row["cell"]["model"] == model]
    arms = sorted(
        {_arm(row) for row in rows}, key=lambda arm: (arm[2] != "uniform", REGISTRY.names.index(arm[0]), arm[1])
    )
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for arm in arms:
        own = {row["cell"]["ratio"]: row for row in rows if _arm(row) == arm}
        values = [_value(own.get(ratio), raw["dense"][model]["loss_nats"]) for ratio in ratios]
        seconds = sorted(row["wall_s"] for row in own.values())[len(own) // 2]
        peak = max(row["peak_memory_bytes"] for row in own.values())
        lines.append(
            "| " + " | ".join([f"`{arm[0]}`", *arm[1:], *values, f"{seconds:.1f}", f"{peak / 2**20:.0f}"]) + " |"
        )
    return lines


def _arm(row: dict[str, Any]) -> tuple[str, str, str]:
    cell = row["cell"]
    return cell["method"], cell["repair"], cell["allocation"]


def _value(row: dict[str, Any] | None, dense_nats: float) -> str:
    return "" if row is None else f"{row['loss_nats'] - dense_nats:.3f} ({row['kl_nats']:.3f})"


if __name__ == "__main__":
    main()
