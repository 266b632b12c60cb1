"""Is a slowdown of 5 % found as often as the load test says it will be? With engines whose speeds are known.

    python benchmarks/planted_slowdown.py [--blocks 120] [--runs 20] [--render-only]

Two simulated engines behind the gateway, 10.0 and 10.5 ms between tokens, each request's gaps stretched by a factor of
its own. A long run of many blocks with an A/A control is the pool; procedures of pilot, recommendation and verdict
are then drawn from it. Whole runs of the recommended size, each through Locust, follow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from artifacts.run import Design, Estimate, Level, Workload
from benchmarks.pages import draw_page, interval, made_with, page_parser, read_raw, write_raw
from benchmarks.simulated_fleet import simulated_fleet
from loadtest.design import plan_design
from loadtest.pairing import estimate_ratio
from loadtest.power import assured_spread
from loadtest.runner import LoadTestRequest, run_load_test
from loadtest.verdicts import verdict

STEM = Path(__file__).with_name("planted_slowdown_cpu_202611")
MEASURE = "speedup_output_tokens_per_s"
GAPS_MS = {"reference": 10.0, "slowed": 10.5}
WANTED = 0.05
JITTER = 0.05
PILOT_BLOCKS = 12
WINDOW_S, LEAD_IN_S = 0.5, 0.35
LEVEL, WORKLOAD = Level(concurrency=4), Workload(prompt_tokens=16, output_tokens=24)
DRAWS = 1000


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--blocks", type=int, default=120)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    if not options.render_only:
        measure(options.blocks, options.runs)
    raw = read_raw(STEM)
    if "drawn" not in raw:
        write_raw(STEM, {**raw, "drawn": drawn_procedures(raw["pool"], DRAWS)})
    draw_page(STEM, render)


def measure(blocks: int, runs: int) -> None:
    """Written after each run, so that what was measured outlives an interruption."""
    with tempfile.TemporaryDirectory() as name, simulated_fleet(Path(name), GAPS_MS, JITTER) as url:
        folder = Path(name)
        pool = block_ratios(url, folder / "pool", blocks)
        spread = float(np.log(pool["control"]).std(ddof=1))
        design = designed(assured_spread(spread, blocks))
        raw: dict[str, Any] = {
            "pool": pool,
            "pool_spread": spread,
            "design": design.model_dump(),
            "runs": [],
            "provenance": collect_provenance().model_dump(mode="json"),
        }
        write_raw(STEM, raw)
        for k in range(runs):
            raw["runs"].append(block_ratios(url, folder / f"run-{k}", design.blocks))
            write_raw(STEM, raw)


def block_ratios(url: str, out: Path, blocks: int) -> dict[str, Any]:
    """Of one real run with a control: both arms' ratios to the reference per block, and which gates failed."""
    request = LoadTestRequest(
        url=url,
        models=("slowed", "reference"),
        against="reference",
        level=LEVEL,
        workload=WORKLOAD,
        duration_s=WINDOW_S * blocks,
        out=out,
        blocks=blocks,
        warmup_s=LEAD_IN_S,
    )
    run = run_load_test(request)
    slowed, control = run.comparisons
    failed = {gate.name: gate.observed for gate in run.gates if not gate.passed}
    sys.stderr.write(f"{out.name}: {slowed.ratios[MEASURE].value:.3f}, {control.ratios[MEASURE].value:.3f} {failed}\n")
    return {
        "slowed": slowed.block_ratios[MEASURE],
        "control": control.block_ratios[MEASURE],
        "failed_gates": sorted(failed),
    }


def designed(spread: float) -> Design:
    """One hypothesis, so that the power is that of one question."""
    return plan_design(blocks=None, wanted=WANTED, spread=spread, pilot=None, family=1)


def found(slowed: Estimate, control: Estimate) -> bool:
    """The whole rule: interval, p value, and outside the control's band."""
    return verdict(slowed, slowed.p_value, control) == "slower"


def drawn_procedures(pool: dict[str, Any], draws: int) -> list[tuple[int, bool, bool]]:
    """(recommended blocks, was the slowdown found, was the control held) of procedures drawn from the pool's blocks.

    A pilot of PILOT_BLOCKS control blocks gives the spread, its upper limit the number of blocks; so many blocks, with
    replacement, give slowdown and control together.
    """
    generator = np.random.default_rng(20_261)
    slowed, control = np.array(pool["slowed"]), np.array(pool["control"])
    results = []
    for _ in range(draws):
        pilot = generator.choice(control, PILOT_BLOCKS)
        design = designed(assured_spread(float(np.log(pilot).std(ddof=1)), PILOT_BLOCKS))
        at = generator.integers(len(slowed), size=design.blocks)
        band = estimate_ratio(control[at].tolist())
        held = verdict(band, band.p_value, None) == "no difference shown"
        results.append((design.blocks, found(estimate_ratio(slowed[at].tolist()), band), held))
    return results


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    pool, design, runs = raw["pool"], raw["design"], raw["runs"]
    procedures = raw["drawn"]
    sizes = [blocks for blocks, _, _ in procedures]
    power, held = (np.mean([row[k] for row in procedures]) for k in (1, 2))
    real = sum(found(estimate_ratio(r["slowed"]), estimate_ratio(r["control"])) for r in runs)
    both = {name: estimate_ratio(pool[name]) for name in ("slowed", "control")}
    return "\n".join(
        [
            "# A planted slowdown of 5 %",
            "",
            "*Question: is it found with 95 % power at the size that the tool recommends?* "
            f"**{'Yes' if power >= design['power'] else 'No'}**: by {power:.1%} of {len(procedures):,} procedures "
            f"drawn from measured blocks, and by {real} of {len(runs)} real runs of {design['blocks']} blocks.",
            "",
            "| what | value |",
            "| --- | ---: |",
            f"| blocks in the pool (one real run, three arms) | {len(pool['slowed'])} |",
            f"| spread of a block's log-ratio, A/A | {raw['pool_spread']:.2%} |",
            f"| measured ratio, slowed to reference | {interval(both['slowed'], 4)} |",
            f"| measured ratio, reference to itself | {interval(both['control'], 4)} |",
            f"| recommended blocks after a pilot of {PILOT_BLOCKS}: median, least, most | "
            f"{np.median(sizes):.0f}, {min(sizes)}, {max(sizes)} |",
            f"| drawn procedures that found the slowdown | {power:.1%} |",
            f"| drawn procedures whose control held | {held:.1%} |",
            f"| real runs of {design['blocks']} blocks that found it | {real} of {len(runs)} |",
            f"| real runs in which a gate failed | {sum(bool(r['failed_gates']) for r in runs)} of {len(runs)} |",
            "",
            "Two simulated engines behind the gateway, 10.0 and 10.5 ms between tokens, each request's gaps "
            f"stretched by a factor whose logarithm has a standard deviation of {JITTER:g}; {LEVEL.label}, "
            f'{WORKLOAD.output_tokens} output tokens, windows of {WINDOW_S:g} s. *Found* is the verdict "slower" on '
            "tokens/s: the published interval leaves 1 out, p is below 5 %, and the ratio lies outside the A/A "
            "interval of the same run. A drawn procedure estimates the spread from a pilot, asks for the blocks that "
            "5 % takes at 95 % power, and draws so many of the pool's blocks with replacement; the real runs went "
            "through Locust.",
            "",
            f"Made with {made_with(raw['provenance'], ('locust', 'scipy'))}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
