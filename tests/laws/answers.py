"""Folders of a comparison, a sweep and a search with known numbers, as the load tester would have written them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.campaign import CAMPAIGN_NAME, Campaign
from artifacts.capacity import SEARCH_NAME, CapacityRatio, CapacitySearch, Look, SearchedLevel, VariantCapacity
from artifacts.provenance import collect_provenance
from artifacts.run import Design, Gate, Level, RunManifest, Workload
from artifacts.slo import parse_slo
from artifacts.sweep import SWEEP_NAME, Dominance, DominanceArea, Sweep, SweepPoint, SweptVariant
from loadtest.campaign import CampaignRequest, conclude
from loadtest.levels import level_folder
from loadtest.pairing import SPEEDUPS, estimate_ratio
from tests.laws.conftest import arm, make_run

Writer = Callable[[str, RunManifest], Path]

WORKLOAD = Workload(prompt_tokens=10, output_tokens=20)
SLO = parse_slo("ttft_p90<150ms")
FASTER = (1.5, 1.52, 1.49, 1.51, 1.5, 1.48)
QUIET = (1.0, 1.01, 0.99, 1.0, 1.005, 0.995)
DESIGN = Design(
    blocks=8, spread=0.02, spread_source="given", confidence=0.95, power=0.95, family=4, minimum_detectable=0.035
)


def controlled_run(level: Level, model: tuple[float, ...] = FASTER, control: tuple[float, ...] = QUIET) -> RunManifest:
    """`make_run` with a control, and ratios that are estimated from the blocks."""
    run = make_run(level, models=("small", "dense"))
    pairs = tuple(
        run.comparisons[0].model_copy(
            update={
                "model": name,
                "ratios": dict.fromkeys(SPEEDUPS, estimate_ratio(blocks)),
                "block_ratios": dict.fromkeys(SPEEDUPS, blocks),
            }
        )
        for name, blocks in (("small", model), ("dense", control))
    )
    return run.model_copy(update={"comparisons": pairs, "arms": (*run.arms, arm("dense", 101))})


def campaign_folder(write: Writer, name: str = "cmp", streams: tuple[int, ...] = (1, 4), **blocks: Any) -> Path:
    """`blocks`: `model` and `control` of `controlled_run`."""
    levels = tuple(Level(concurrency=count) for count in streams)
    runs = [controlled_run(level, **blocks) for level in levels]
    folders = [write(f"{name}/{level_folder(level)}", run) for level, run in zip(levels, runs, strict=True)]
    made: Campaign = conclude(campaign_request(levels, folders[0].parent), runs)
    made.save(folders[0].parent / CAMPAIGN_NAME)
    return folders[0].parent


def campaign_request(levels: tuple[Level, ...], out: Path) -> CampaignRequest:
    return CampaignRequest(
        url="http://127.0.0.1:8000",
        models=("small",),
        against="dense",
        levels=levels,
        workload=WORKLOAD,
        design=DESIGN,
        window_s=2,
        out=out,
    )


def gate(name: str = "drift", passed: bool = False) -> Gate:
    return Gate(name=name, observed=0.5, limit=0.1, unit="", passed=passed, cause="It drifts.", remedy="Ask for less.")


def point(streams: int, per_user: float, tokens_per_s: float, folder: str, **changes: Any) -> SweepPoint:
    values: dict[str, Any] = {
        "level": Level(concurrency=streams),
        "folder": folder,
        "valid": True,
        "failed_gates": (),
        "output_tokens_per_s": tokens_per_s,
        "output_tokens_per_s_per_user": per_user,
        "block_output_tokens_per_s": (tokens_per_s,),
        "block_output_tokens_per_s_per_user": (per_user,),
        "goodput_per_s": tokens_per_s / 20,
        "measures": {},
        "on_front": True,
    }
    return SweepPoint(**(values | changes))


def sweep_folder(write: Writer, name: str = "front", overloaded: bool = False) -> Path:
    """Two levels; at the second `dense` is on no front, and where `overloaded` a gate failed that is an outcome."""
    folder = write(f"{name}/levels/00", make_run(Level(concurrency=2))).parents[1]
    second = make_run(Level(concurrency=8))
    write(f"{name}/levels/01", second.model_copy(update={"gates": (gate(),)}) if overloaded else second)
    variants = (
        ("dense", (point(2, 50, 90, "levels/00"), point(8, 40, 88, "levels/01", on_front=False))),
        ("small", (point(2, 60, 110, "levels/00"), point(8, 30, 200, "levels/01"))),
    )
    areas = (
        DominanceArea(from_per_user=0, to_per_user=50, winner="small", ratio=1.25),
        DominanceArea(from_per_user=50, to_per_user=60, winner="small", ratio=None),
    )
    Sweep(
        url="http://127.0.0.1:8000",
        slo=SLO,
        workload=WORKLOAD,
        duration_s=16,
        blocks=4,
        warmup_s=1,
        variants=tuple(SweptVariant(model=model, fingerprint=None, points=points) for model, points in variants),
        comparisons=((), ()),
        dominance=(Dominance(model="small", against="dense", areas=areas),),
        provenance=collect_provenance(),
    ).save(folder / SWEEP_NAME)
    return folder


def searched(rate: float, verdict: str, **look: Any) -> SearchedLevel:
    values = {"folder": f"levels/{rate:g}", "pilot": False, "duration_s": 5, "seed": 0, "failed_gates": ()}
    return SearchedLevel.parse(
        {"rate_per_s": rate, "purpose": "probe", "verdict": verdict, "looks": (Look(**(values | look)),)}
        | {"attainments": ()},
        "a level",
    )


def capacity(model: str, rate: float | None, above: float | None, *levels: SearchedLevel) -> VariantCapacity:
    return VariantCapacity(
        model=model,
        fingerprint=None,
        rate_per_s=rate,
        above_per_s=above,
        missed_per_s=above,
        goodput_per_s=rate,
        confirmed=rate is not None,
        limited_by="server",
        verdict=f"{model} sustains {rate}.",
        levels=levels,
    )


def search_folder(root: Path, name: str = "cap", models: tuple[str, str] = ("dense", "small"), **look: Any) -> Path:
    """The first sustains 8 requests/s and misses 9; the second 12 and 14."""
    first, second = models
    CapacitySearch.parse(
        {
            "url": "http://127.0.0.1:8000",
            "slo": SLO,
            "workload": WORKLOAD,
            "policy": {"start_rate_per_s": 4, "precision": 1.25},
            "arrivals": "gamma",
            "burstiness": 0.5,
            "confidence": 0.95,
            "look_s": 5,
            "warmup_s": 1,
            "timeout_s": 10,
            "variants": (
                capacity(first, 8, 9, searched(8, "met", **look), searched(9, "missed")),
                capacity(second, 12, 14, searched(12, "met"), searched(14, "missed"), searched(20, "unusable")),
            ),
            "ratios": (CapacityRatio(model=second, against=first, value=1.5, low=12 / 9, high=14 / 8),),
            "provenance": collect_provenance(),
        },
        "a search",
    ).save(root / name / SEARCH_NAME)
    return root / name
