"""How long does second-order selection with repair take, in Cholesky factorisations of the same Gram matrix?

    python benchmarks/obs_cholesky.py [--dtype float32] [--repeats 3] [--width 11008] [--hidden 4096] [--render-only]

Each repeat times one plain factorisation and then the whole way of one FFN layer with half of its channels removed:
ranking (factorisation and inverse included), cutting, refitting. Repeats are appended to the raw data.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, read_raw, write_raw
from compressors.arch import Producer, UnitGroup
from compressors.compensation import refit_consumer
from compressors.methods import obs
from compressors.peak_memory import peak_bytes
from compressors.registry import WidthEvidence
from compressors.statistics import ConsumerStatistics
from compressors.surgery import keep_units, unit_slots

STEM = Path(__file__).with_name("obs_cholesky_cpu_202611")
CORES = 2
SAMPLE_TOKENS = 4096
TEXT_TOKENS = 131072
LIMIT = 8.0

PAGE = """# Second-order selection, measured in Cholesky factorisations

*Question: does `obs` with its repair, half of an FFN of {width:,} channels over hidden size {hidden:,} removed, finish
within {limit:g} times the time of one Cholesky factorisation of the same Gram matrix, inverse included?*
{answer}

| type | repeats | factorisation, s | selection, s | cut and repair, s | ratio (median) | ratio (range) | peak, GiB |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

**Protocol.** A Gram matrix of {sample:,} random correlated tokens plus a tenth of its mean diagonal on the diagonal
(full rank), wanted outputs that differ from what the weights write, the default configuration: {config}. One repeat
times `torch.linalg.cholesky`, then `obs`'s ranking and the refit, in the same type and process with {cores} threads.
Medians; the ratio is taken within each repeat. Peak: the whole process. Nothing else was measured at the time.

**Where the time goes by count.** In units of one factorisation (n^3 / 3 operations for n columns; 0.37 n rows, of which
1,024 sums decide): the factor 1, its inverse 2, the optimum of the uncut weights 0.6, downdates of removed rows of the
inverse 0.5, updates of the weights 0.2, the refit of all rows 0.7 - together 5.0. The rest is memory traffic and the
greedy choice inside the pools.

**Read with care.** One machine. A random Gram matrix says nothing about quality.

**Made with** {made_with}. Raw data:
`benchmarks/{raw}`; this page is generated from it by `benchmarks/obs_cholesky.py --render-only`.
"""


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=11008)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=STEM, help="raw data and page, without an ending")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(CORES)
        add_repeats(options.out, measure(options.dtype, options.repeats, options.width, options.hidden))
    draw_page(options.out, render)


def measure(dtype_name: str, repeats: int, width: int, hidden: int) -> dict[str, Any]:
    dtype = getattr(torch, dtype_name)
    gram, cross, weight = problem(width, hidden, dtype)
    torch.linalg.cholesky(gram[:1024, :1024])
    cells = []
    for repeat in range(repeats):
        cell = {"dtype": dtype_name, **one_repeat(gram, cross, weight), "peak_bytes": peak_bytes()}
        sys.stderr.write(f"{repeat}: {cell}\n")
        cells.append(cell)
    return {
        "width": width,
        "hidden": hidden,
        "threads": CORES,
        "config": repr(obs.METHOD.config),
        "cells": cells,
        "provenance": collect_provenance().model_dump(mode="json"),
    }


def problem(width: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gram [width, width], cross [hidden, width] and weights [hidden, width]; seeded."""
    torch.manual_seed(0)
    inputs = torch.randn(SAMPLE_TOKENS, width, dtype=dtype) * torch.rand(width, dtype=dtype)
    inputs[:, 1:] += 0.5 * inputs[:, :-1]
    gram = inputs.T @ inputs
    gram.diagonal().add_(0.1 * gram.diagonal().mean())
    weight = torch.randn(hidden, width, dtype=dtype) / width**0.5
    cross = weight @ gram
    cross += 0.1 * cross.std() * torch.randn(hidden, width, dtype=dtype)
    return gram, cross, weight


def one_repeat(gram: Tensor, cross: Tensor, weight: Tensor) -> dict[str, float]:
    began = time.perf_counter()
    torch.linalg.cholesky(gram)
    factorised = time.perf_counter()
    hidden, width = weight.shape
    consumer = linear(weight)
    group = UnitGroup((Producer(linear(weight[:1].T), 1),), consumer, 1)
    statistics = ConsumerStatistics(width, hidden, full=False, device=gram.device)
    statistics.tokens, statistics.gram, statistics.cross = TEXT_TOKENS, gram, cross
    evidence = WidthEvidence(group=group, statistics=statistics, most_removed=width // 2, random=Random(0))
    gc.collect()
    prepared = time.perf_counter()
    kept = obs.rank(obs.METHOD.config, evidence).kept(width - width // 2)
    ranked = time.perf_counter()
    keep_units(group, kept)
    refit_consumer(consumer, statistics, unit_slots(kept, 1))
    done = time.perf_counter()
    return {"cholesky_s": factorised - began, "rank_s": ranked - prepared, "repair_s": done - ranked}


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def add_repeats(stem: Path, measured: dict[str, Any]) -> None:
    """Appends to what was measured on the same sizes before, else starts anew."""
    if stem.with_suffix(".json").exists():
        before = read_raw(stem)
        if all(before[key] == measured[key] for key in ("width", "hidden", "threads", "config")):
            measured["cells"] = before["cells"] + measured["cells"]
    write_raw(stem, measured)


def ratios(raw: dict[str, Any], dtype: str) -> list[float]:
    """Time of selection and repair over time of one factorisation, per repeat."""
    cells = [cell for cell in raw["cells"] if cell["dtype"] == dtype]
    return [(cell["rank_s"] + cell["repair_s"]) / cell["cholesky_s"] for cell in cells]


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    return PAGE.format(
        width=raw["width"],
        hidden=raw["hidden"],
        limit=LIMIT,
        answer=_answer(raw),
        rows="\n".join(_row(raw, dtype) for dtype in _dtypes(raw)),
        sample=SAMPLE_TOKENS,
        config=f"`{raw['config']}`",
        cores=raw["threads"],
        made_with=made_with(raw["provenance"], ("torch",)),
        raw=STEM.with_suffix(".json").name,
    )


def _dtypes(raw: dict[str, Any]) -> list[str]:
    return sorted({cell["dtype"] for cell in raw["cells"]})


def _answer(raw: dict[str, Any]) -> str:
    """Every repeat of every type has to stay under the limit for a yes."""
    values = [value for dtype in _dtypes(raw) for value in ratios(raw, dtype)]
    within = sum(value <= LIMIT for value in values)
    return f"**{'Yes' if within == len(values) else 'No'}: in {within} of {len(values)} repeats.**"


def _row(raw: dict[str, Any], dtype: str) -> str:
    cells = [cell for cell in raw["cells"] if cell["dtype"] == dtype]
    values = ratios(raw, dtype)
    times = [f"{median(cell[name] for cell in cells):.1f}" for name in ("cholesky_s", "rank_s", "repair_s")]
    peak = max(cell["peak_bytes"] for cell in cells) / 2**30
    spread = f"{min(values):.2f} to {max(values):.2f}"
    return f"| {dtype} | {len(cells)} | {' | '.join(times)} | {median(values):.2f} | {spread} | {peak:.1f} |"


if __name__ == "__main__":
    main()
