"""Peak memory of a compression that never holds more than one block, on a 1B-shaped random checkpoint.

`python benchmarks/compression_memory.py` writes compression_memory_cpu_202611.json and the page made from it. Each arm
runs in a process of its own; the peak is the kernel's high-water mark of resident memory above what the interpreter
held with all libraries imported. Verification reloads the checkpoint in yet another process and is not part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
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
ARMS = (("magnitude", False), ("wanda_sp", False), ("wanda_sp", True), ("obs", True))


def write_model(folder: Path) -> None:
    """A random bfloat16 checkpoint of Llama-3.2-1B's shape and a tokenizer of words, block by block."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from compressors.shards import Resident, write_shard
    from compressors.skeleton import Skeleton

    config = LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    shapes = Skeleton(config).shapes()

    def tensor(shape: tuple[int, ...]) -> Resident:
        values = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=draw) * 0.02
        return Resident(values.bfloat16(), torch.bfloat16)

    write_shard(folder / "model.safetensors", {name: tensor(shape) for name, shape in shapes.items()})
    names = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, 5000))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    words = torch.randint(3, 5000, (WINDOW_TOKENS * (TOKENS // WINDOW_TOKENS + 2),), generator=draw).tolist()
    (folder / "text.txt").write_text(" ".join(f"w{word}" for word in words))


def measure(model: str, method: str, compensate: str, out: str) -> None:
    """In a process of its own: prints one JSON object."""
    import torch

    from compressors import pipeline
    from compressors.card import ResourceCard
    from compressors.peak_memory import peak_bytes, restart_peak
    from compressors.request import CompressionRequest

    torch.rand(64, 64) @ torch.rand(64, 64)  # starts the thread pool, which is not the compression's
    restart_peak()
    idle_bytes = peak_bytes()
    cards: list[ResourceCard] = []
    request = CompressionRequest(
        model=model,
        out=Path(out),
        method=method,
        ratio=0.5,
        units=("ffn", "kv"),
        calibration=f"{model}/text.txt",
        calibration_tokens=TOKENS,
        window_tokens=WINDOW_TOKENS,
        repair="ridge" if compensate == "True" else "none",
    )
    manifest = pipeline.compress(request, verify=lambda folder: None, announce=cards.append)
    card = cards[0]
    row = {
        "method": method,
        "compensate": compensate == "True",
        "idle_bytes": idle_bytes,
        "peak_above_idle_bytes": manifest.cost.peak_memory_bytes - idle_bytes,
        "block_bytes": card.block_bytes,
        "states_bytes": card.states_bytes,
        "statistics_bytes": card.statistics_bytes,
        "repair_bytes": card.repair_bytes,
        "piece_bytes": card.piece_bytes,
        "expected_s": card.expected_s,
        "wall_s": manifest.cost.wall_s,
        "stages_s": manifest.cost.stages_s,
    }
    print(json.dumps(row))  # noqa: T201


def run() -> dict[str, Any]:
    from artifacts.provenance import collect_provenance

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for method, compensate in ARMS:
            out = Path(folder) / "out"
            command = [sys.executable, __file__, folder, method, str(compensate), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            shutil.rmtree(out)
    provenance = collect_provenance().model_dump()
    return {"shape": SHAPE, "tokens": TOKENS, "window_tokens": WINDOW_TOKENS, "provenance": provenance, "rows": rows}


def buffers_bytes(row: dict[str, Any]) -> int:
    return sum(row[f"{name}_bytes"] for name in ("states", "statistics", "repair", "piece"))


def render(raw: dict[str, Any]) -> str:
    """The page, made from the raw data alone."""
    shape, provenance = raw["shape"], raw["provenance"]
    lines = [
        "# Peak memory while pruning a 1B-shaped checkpoint",
        "",
        f"Random bfloat16 weights in Llama-3.2-1B's shape (hidden {shape['hidden_size']}, FFN "
        f"{shape['intermediate_size']}, {shape['num_hidden_layers']} layers), half of the FFN channels and KV groups "
        f"removed, {raw['tokens'] // raw['window_tokens']} windows of {raw['window_tokens']} tokens, float32 on "
        f"{provenance['cpu']} ({provenance['cpu_cores']} cores), torch {provenance['versions']['torch']}. One run an "
        "arm. The peak is the kernel's high-water mark above the idle interpreter; the buffers are those that the "
        "card states before the run.",
        "",
        "| method | refit | peak above idle, MiB | block, MiB | stated buffers, MiB | (peak - buffers) / block | s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in raw["rows"]:
        blocks = (row["peak_above_idle_bytes"] - buffers_bytes(row)) / row["block_bytes"]
        sizes = (row["peak_above_idle_bytes"], row["block_bytes"], buffers_bytes(row))
        cells = [row["method"], "yes" if row["compensate"] else "no", *(f"{size / 2**20:.0f}" for size in sizes)]
        lines.append("| " + " | ".join([*cells, f"{blocks:.2f}", f"{row['wall_s']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(FOLDER.parent)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        raw = run()
        STEM.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
        STEM.with_suffix(".md").write_text(render(raw))
