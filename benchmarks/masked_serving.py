"""Does a masked checkpoint serve faster than the dense model? And a structured one that loses as much? On real vLLM.

    python benchmarks/masked_serving.py --folder WORK [--make-only] [--runs 2] [--url URL] [--render-only]

Five variants of the demo model behind one `prunebench serve`, an engine each, in paired blocks of `compare`, the dense
model once more as its own control. WORK keeps the variants and the finished levels, so that an interrupted run goes on.
Runs that are in the raw data stay; `--url` measures a server of WORK/fleet.json that was started before.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.campaign import LevelResult
from artifacts.errors import ConfigError
from artifacts.fleet import Fleet, VariantEntry
from artifacts.progress import silent
from artifacts.provenance import collect_provenance
from artifacts.run import Level, Workload, load_run
from benchmarks.masked_serving_page import DENSE, MEASURES, TWINS, render
from benchmarks.masked_variants import CALIBRATION_TOKENS, LENGTH_TOKENS, MASKS, make_all
from benchmarks.pages import draw_page, page_parser, read_raw, write_raw
from loadtest.campaign import CampaignRequest, run_campaign
from loadtest.design import plan_design
from loadtest.endpoint import Endpoint
from loadtest.pairing import SPEEDUPS
from prunebench.demo_server import running_server

STEM = Path(__file__).with_name("masked_serving_cpu_202611")
BLOCKS, LEAD_IN_S = 8, 0.4
SETTINGS = {
    "calibration_tokens": CALIBRATION_TOKENS,
    "length_tokens": LENGTH_TOKENS,
    "blocks": BLOCKS,
    "lead_in_s": LEAD_IN_S,
}
MAX_MODEL_LEN = 512
NAMES = tuple(name for mask in MASKS for name in (mask, TWINS[mask]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One comparison: what each request asks for, and how hard."""

    name: str
    workload: Workload
    levels: tuple[Level, ...]
    window_s: float


LOADS = (
    Load(
        name="decode",
        workload=Workload(prompt_tokens=64, output_tokens=48),
        levels=(Level(concurrency=1), Level(concurrency=8)),
        window_s=2.0,
    ),
    Load(
        name="prefill",
        workload=Workload(prompt_tokens=384, output_tokens=1),
        levels=(Level(concurrency=8),),
        window_s=1.5,
    ),
)


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where variants and finished levels are kept")
    parser.add_argument("--make-only", action="store_true", help="make the variants and measure nothing")
    parser.add_argument("--runs", type=int, default=2, help="how many there are to be in the raw data")
    parser.add_argument("--url", help="of a server that runs already")
    options = parser.parse_args()
    if not options.render_only:
        torch.set_num_threads(1)
        measure(options.folder, options.runs, options.url, options.make_only)
    draw_page(STEM, render)


def measure(folder: Path, runs: int, url: str | None, make_only: bool) -> None:
    """Makes the variants and adds the runs that are missing, saving after each."""
    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else _begun(folder)
    write_raw(STEM, raw)
    if make_only or len(raw["runs"]) >= runs:
        return
    with nullcontext(url) if url else running_server(_fleet_file(folder), folder / "server.log", silent) as served:
        require_same(raw["variants"], Endpoint(served).models())
        while len(raw["runs"]) < runs:
            provenance = collect_provenance().model_dump(mode="json")
            out = folder / f"run-{len(raw['runs'])}"
            levels = [level for load in LOADS for level in compared(load, served, out)]
            raw["runs"].append({"levels": levels, "provenance": provenance})
            write_raw(STEM, raw)


def require_same(variants: list[dict[str, Any]], served: dict[str, dict[str, Any]]) -> None:
    """Raises ConfigError if a server has other checkpoints than those that the raw data is about."""
    for each in variants:
        found = served.get(each["name"], {}).get("prunebench", {}).get("fingerprint")
        if found != each["fingerprint"]:
            raise ConfigError(
                f"{each['name']} is {found} on the server and {each['fingerprint']} in the raw data. "
                "Remove the raw data to begin anew."
            )


def _begun(folder: Path) -> dict[str, Any]:
    return {**SETTINGS, "variants": make_all(folder / "variants"), "runs": []}


def _fleet_file(folder: Path) -> Path:
    entries = tuple(
        VariantEntry(name=name, model=str((folder / "variants" / name).resolve())) for name in (DENSE, *NAMES)
    )
    state = str(folder / "state")
    fleet = Fleet(variants=entries, max_model_len=MAX_MODEL_LEN, state_dir=state, starts_at_once=2)
    fleet.save(folder / "fleet.json")
    return folder / "fleet.json"


def compared(load: Load, url: str, folder: Path) -> list[dict[str, Any]]:
    """One entry of the raw data for each level. Raises what the load tests raise."""
    family = len(load.levels) * len(NAMES) * len(SPEEDUPS)
    request = CampaignRequest(
        url=url,
        models=NAMES,
        against=DENSE,
        levels=load.levels,
        workload=load.workload,
        design=plan_design(blocks=BLOCKS, wanted=None, spread=None, pilot=None, family=family),
        window_s=load.window_s,
        out=folder / load.name,
        warmup_s=LEAD_IN_S,
        any_url=True,
    )
    campaign = run_campaign(request)
    return [_level(load, level, request.out / level.folder) for level in campaign.levels]


def _level(load: Load, level: LevelResult, run_folder: Path) -> dict[str, Any]:
    """Block ratios of every arm, the control under the reference's name, and what the arms did in tokens/s."""
    first: dict[str, float | None] = {}
    for arm in load_run(run_folder).arms:
        first.setdefault(arm.model, arm.measures["output_tokens_per_s"])
    return {
        "load": load.name,
        "prompt_tokens": load.workload.prompt_tokens,
        "output_tokens": load.workload.output_tokens,
        "concurrency": level.level.concurrency,
        "window_s": load.window_s,
        "failed_gates": {gate.name: gate.observed for gate in level.failed_gates},
        "tokens_per_s": first,
        "block_ratios": {
            comparison.model: {
                measure: comparison.block_ratios[measure] for measure in MEASURES if measure in comparison.block_ratios
            }
            for comparison in level.comparisons
        },
    }


if __name__ == "__main__":
    main()
