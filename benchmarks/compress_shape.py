"""How long does pruning a large checkpoint take on a GPU, and how much of its memory, with one block there at a time?

    python benchmarks/compress_shape.py --study studies/h200-shapes.toml --model qwen2.5-14b --device cuda
    python benchmarks/compress_shape.py [--render-only]            the tiny shape, on a CPU

A checkpoint of the shape is drawn on this machine and written block by block into --folder (a file system in memory
where the disk is short: dense, finished blocks and result stand there together), then pruned by the flagship, `obs`
with ridge. --out names the raw data and its page. Verification, which reloads the result in another process, is not
part of it. Killed, the same command goes on where the compression was, and counts the time of the last run alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.variant import VariantManifest
    from compressors.card import ResourceCard
    from compressors.request import CompressionRequest

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
STEM = FOLDER / "compress_shape_cpu_202611"
WINDOW_TOKENS = 256
GIB = 2**30


def main(arguments: list[str] | None = None) -> None:
    from benchmarks.pages import draw_page, page_parser, read_raw, write_raw

    parser = page_parser(__doc__)
    parser.add_argument("--study", type=Path, default=FOLDER.parent / "studies" / "tiny-shapes.toml")
    parser.add_argument("--model", default="tiny", help="one of the study's shapes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=32768, help="of calibration")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--units", default="ffn")
    parser.add_argument("--folder", type=Path, default=Path("compress-shape"), help="for checkpoint and result")
    parser.add_argument("--out", type=Path, default=STEM, help="raw data and page, without their endings")
    options = parser.parse_args(arguments)
    if not options.render_only:
        row = measure(options)
        known = read_raw(options.out)["rows"] if options.out.with_suffix(".json").is_file() else []
        kept = [other for other in known if key(other) != key(row)]
        write_raw(options.out, {"window_tokens": WINDOW_TOKENS, "rows": [*kept, row]})
    draw_page(options.out, render)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "device", "ratio", "units", "tokens"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Draws the checkpoint, unless it is there, and prunes it; one row of the raw data."""
    import torch

    from artifacts.variant import is_variant
    from benchmarks.random_checkpoint import TEXT_NAME, write_checkpoint
    from compressors.peak_memory import peak_bytes, restart_peak
    from compressors.pipeline import compress
    from prunebench.console import StageLines

    source, out = options.folder / f"{options.model}-dense", options.folder / f"{options.model}-pruned"
    if is_variant(out):
        raise SystemExit(f"{out} is there already. Remove it, or choose another --folder.")
    begun_s = time.perf_counter()
    if not (source / TEXT_NAME).is_file():
        write_checkpoint(source, shape_of(options.study, options.model), 2 * options.tokens, options.device)
    drawing_s = time.perf_counter() - begun_s
    cards: list[ResourceCard] = []
    torch.rand(64, 64) @ torch.rand(64, 64)  # starts the thread pool, which is not the compression's
    restart_peak()
    idle_bytes = peak_bytes()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    manifest = compress(
        request_of(options, source, out), StageLines(), verify=lambda folder: None, announce=cards.append
    )
    return row_of(options, manifest, cards[0], idle_bytes) | {"drawing_s": drawing_s}


def shape_of(study: Path, model: str) -> dict[str, Any]:
    from artifacts.study import StudyFile

    found = {each.name: each.config for each in StudyFile.load(study).models if each.config}
    if model not in found:
        raise SystemExit(f"{study} has no shape {model}. Choose from {', '.join(found) or 'another study'}.")
    return found[model]


def request_of(options: argparse.Namespace, source: Path, out: Path) -> CompressionRequest:
    from benchmarks.random_checkpoint import TEXT_NAME
    from compressors.request import CompressionRequest

    units: Any = tuple(options.units.split(","))
    return CompressionRequest(
        model=str(source),
        out=out,
        method="obs",
        ratio=options.ratio,
        units=units,
        calibration=str(source / TEXT_NAME),
        calibration_tokens=options.tokens,
        window_tokens=WINDOW_TOKENS,
        repair="ridge",
        device=options.device,
    )


def row_of(
    options: argparse.Namespace, manifest: VariantManifest, card: ResourceCard, idle_bytes: int
) -> dict[str, Any]:
    import torch

    from artifacts.provenance import collect_provenance

    on_gpu = options.device == "cuda"
    return {
        **{name: getattr(options, name) for name in ("model", "device", "ratio", "units", "tokens")},
        "params": manifest.base.footprint.params_total,
        "left_params": manifest.footprint.params_total,
        "wall_s": manifest.cost.wall_s,
        "stages_s": manifest.cost.stages_s,
        "expected_s": card.expected_s,
        "host_peak_above_idle_bytes": max(0, manifest.cost.peak_memory_bytes - idle_bytes),
        "gpu_peak_allocated_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "gpu_peak_reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
        "block_bytes": card.block_bytes,
        "buffers_bytes": card.buffers_bytes,
        "provenance": collect_provenance().model_dump(),
    }


def render(raw: dict[str, Any]) -> str:
    """The page, made from the raw data alone."""
    from artifacts.units import format_count
    from benchmarks.pages import made_with

    lines = [
        "# Pruning a whole checkpoint, one block at a time",
        "",
        "Random bfloat16 weights in a published shape, pruned by `obs` with ridge, computed in float32; windows of "
        f"{raw['window_tokens']} tokens. One run a row. A block and the stated buffers are what the card says before "
        "the run; the peak on the host is the kernel's high-water mark above the idle interpreter, mapped files "
        "included; that on the GPU is what PyTorch had allocated at most, and reserved in brackets.",
        "",
        "| model | parameters | removed | calibration tokens | device | s | by stage | block, GiB "
        "| stated buffers, GiB | peak on the host, GiB | peak on the GPU, GiB |",
        "| --- | ---: | --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in raw["rows"]:
        on_gpu = "–"
        if row["gpu_peak_allocated_bytes"] is not None:
            allocated, reserved = (row[f"gpu_peak_{kind}_bytes"] / GIB for kind in ("allocated", "reserved"))
            on_gpu = f"{allocated:.2f} ({reserved:.2f})"
        machine = ", ".join(row["provenance"]["gpus"]) or row["provenance"]["cpu"]
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stages_s"].items())
        sizes = (f"{row[name] / GIB:.2f}" for name in ("block_bytes", "buffers_bytes", "host_peak_above_idle_bytes"))
        params = f"{format_count(row['params'])} → {format_count(row['left_params'])}"
        cells = [row["model"], params, f"{row['ratio']:g} of {row['units']}", str(row["tokens"]), machine]
        lines.append("| " + " | ".join([*cells, f"{row['wall_s']:.1f}", stages, *sizes, on_gpu]) + " |")
    made = dict.fromkeys(made_with(row["provenance"]) for row in raw["rows"])
    return "\n".join([*lines, "", *(f"Made with {each}." for each in made)]) + "\n"


if __name__ == "__main__":
    main()
