"""Peak memory of a compression that never holds more than one block, on a 1B-shaped random checkpoint.

    python benchmarks/compression_memory.py [--render-only]

Raw data and page are written after every arm; arms that are there are not measured again. Each arm runs in a process
of its own; the peak is the kernel's high-water mark of resident memory above what the interpreter held with all
libraries imported. Verification reloads the checkpoint in yet another process and is not part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
STEM = FOLDER / "compression_memory_cpu_202611"
TOKENS, WINDOW_TOKENS, VOCABULARY = 2048, 256, 128256
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Method, refit, units and ratio. Of the layers one of sixteen goes: greedy choice repeats itself for every further one.
WIDTHS, LAYERS = ("ffn,kv", 0.5), ("layers", 0.0625)
ARMS = (
    ("magnitude", False, *WIDTHS),
    ("wanda_sp", False, *WIDTHS),
    ("wanda_sp", True, *WIDTHS),
    ("obs", True, *WIDTHS),
    ("greedy_kl", False, *LAYERS),
)


def main() -> None:
    from benchmarks.pages import draw_page, page_parser

    parser = page_parser(__doc__)
    parser.add_argument("--arm", nargs=6, help=SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        measure(*options.arm)
        return
    if not options.render_only:
        run()
    draw_page(STEM, render)


def measure(model: str, method: str, compensate: str, units: str, ratio: str, out: str) -> None:
    """In a process of its own: prints one JSON object."""
    import torch

    from artifacts.provenance import collect_provenance
    from compressors import pipeline
    from compressors.card import ResourceCard
    from compressors.peak_memory import peak_bytes, restart_peak
    from compressors.request import CompressionRequest

    torch.rand(64, 64) @ torch.rand(64, 64)  # starts the thread pool, which is not the compression's
    restart_peak()
    idle_bytes = peak_bytes()
    cards: list[ResourceCard] = []
    kinds: Any = tuple(units.split(","))
    request = CompressionRequest(
        model=model,
        out=Path(out),
        method=method,
        ratio=float(ratio),
        units=kinds,
        calibration=f"{model}/text.txt",
        calibration_tokens=TOKENS,
        window_tokens=WINDOW_TOKENS,
        repair="ridge" if compensate == "True" else "none",
    )
    manifest = pipeline.compress(request, verify=lambda folder: None, announce=cards.append)
    card = cards[0]
    row = {
        "commit": collect_provenance().commit,
        "method": method,
        "compensate": compensate == "True",
        "units": units,
        "ratio": float(ratio),
        "idle_bytes": idle_bytes,
        "peak_above_idle_bytes": manifest.cost.peak_memory_bytes - idle_bytes,
        "block_bytes": card.block_bytes,
        "buffers_bytes": card.buffers_bytes,
        "buffers_by_stage": card.stages,
        "expected_s": card.expected_s,
        "wall_s": manifest.cost.wall_s,
        "stages_s": manifest.cost.stages_s,
    }
    print(json.dumps(row))  # noqa: T201


def run() -> None:
    """Saves after every arm; arms that are there already are not measured again."""
    from benchmarks.pages import read_raw, write_raw
    from benchmarks.random_checkpoint import write_checkpoint

    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else unmeasured()
    done = {key(row): row for row in raw["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        shape = {**SHAPE, "architectures": ["LlamaForCausalLM"]}
        write_checkpoint(Path(folder), shape, TOKENS + 2 * WINDOW_TOKENS)
        for method, compensate, units, ratio in ARMS:
            if (method, compensate, units, ratio) in done:
                continue
            out = Path(folder) / "out"
            command = [sys.executable, __file__, "--arm", folder, method, str(compensate), units, str(ratio), str(out)]
            child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
            if child.returncode:
                raise SystemExit(child.stderr)
            raw["rows"].append(json.loads(child.stdout.splitlines()[-1]))
            write_raw(STEM, raw)
            shutil.rmtree(out)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("method", "compensate", "units", "ratio"))


def unmeasured() -> dict[str, Any]:
    from artifacts.provenance import collect_provenance

    provenance = collect_provenance().model_dump()
    return {"shape": SHAPE, "tokens": TOKENS, "window_tokens": WINDOW_TOKENS, "provenance": provenance, "rows": []}


def render(raw: dict[str, Any]) -> str:
    """The page, made from the raw data alone."""
    from benchmarks.pages import made_with

    shape = raw["shape"]
    lines = [
        "# Peak memory while pruning a 1B-shaped checkpoint",
        "",
        f"Random bfloat16 weights in Llama-3.2-1B's shape (hidden {shape['hidden_size']}, FFN "
        f"{shape['intermediate_size']}, {shape['num_hidden_layers']} layers), "
        f"{raw['tokens'] // raw['window_tokens']} windows of {raw['window_tokens']} tokens, computed in float32. One "
        "run an arm. The peak is the kernel's high-water mark above the idle interpreter; the buffers are those that "
        "the card states before the run, of the stage that needs most. Other work shared the machine: the seconds say "
        "how long it took here, not how fast it is.",
        "",
        f"Made with {made_with(raw['provenance'])}; the raw data names each row's commit.",
        "",
        "| method | removed | refit | peak above idle, MiB | block, MiB | stated buffers, MiB "
        "| (peak - buffers) / block | buffers / (peak - block) | s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in raw["rows"]:
        sizes = (row["peak_above_idle_bytes"], row["block_bytes"], row["buffers_bytes"])
        peak, block, buffers = sizes
        shares = (f"{(peak - buffers) / block:.2f}", f"{buffers / (peak - block):.2f}")
        removed = f"{row['ratio']:.4g} of {row['units'].replace(',', ' and ')}"
        cells = [row["method"], removed, "yes" if row["compensate"] else "no"]
        cells += [*(f"{size / 2**20:.0f}" for size in sizes), *shares, f"{row['wall_s']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(FOLDER.parent)}


if __name__ == "__main__":
    main()
