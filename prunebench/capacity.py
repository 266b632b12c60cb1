"""The verbs that ask how much a server can do: search and sweep. Heavy packages are imported when a verb runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifacts.errors import ConfigError
from prunebench import load_options as opt
from prunebench.choices import Arrivals, Folder

if TYPE_CHECKING:
    from artifacts.capacity import CapacitySearch, SearchPolicy
    from artifacts.run import Level
    from artifacts.sweep import Sweep

_PATIENCE = 4  # times what the laxest limits allow together: such a request is late by any of them
_LEAST_PATIENCE_S = 10.0
_MOST_PATIENCE_S = 600.0
_LEAST_LOOK_S = 5.0

Models = Annotated[
    list[str], typer.Option(help="Served variant; may be given several times. The first is the reference.")
]
LookSeconds = Annotated[
    float | None, typer.Option(help="Least seconds of a full look. Default: until an overload by --precision shows.")
]


def search(
    url: opt.Url,
    model: Models,
    slo: Annotated[str, typer.Option(help="Limits as ttft_p95<500ms,tpot_p95<50ms (ttft, tpot, e2e), or a preset.")],
    out: Folder,
    prompt_tokens: opt.PromptTokens = None,
    output_tokens: opt.OutputTokens = None,
    start_rate: Annotated[float, typer.Option(help="Requests per second to try first.")] = 1.0,
    lowest_rate: Annotated[float, typer.Option(help="Give up below this rate.")] = 0.01,
    highest_rate: Annotated[float, typer.Option(help="Look no further above this rate.")] = 1000.0,
    precision: Annotated[float, typer.Option(help="Stop when missed rate / met rate is at most this.")] = 1.1,
    look: LookSeconds = None,
    most_looks: Annotated[int, typer.Option(min=1, help="Full looks at one rate before it is left undecided.")] = 3,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before each look.")] = 2.0,
    arrivals: opt.ArrivalsOption = Arrivals.poisson,
    burstiness: opt.BurstinessOption = None,
    seed: opt.Seed = 0,
) -> None:
    """Find the highest request rate that each variant sustains within an SLO, by probe, bisection and confirmation.

    Example: prunebench search --url http://127.0.0.1:8000 --model dense --model pruned-30
    --slo 'ttft_p95<500ms,tpot_p95<50ms' --prompt-tokens 512 --output-tokens 128 --out capacity

    A limit at p95 is met when at least 95 % of all requests are surely within it (failed ones are late) and missed when
    surely fewer are; between the two a rate is looked at again. A failed gate of the load client makes a rate unusable,
    not missed. The same command goes on with an interrupted search.

    MLPerf's published limits (p99, Poisson): mlperf-llama3.1-8b-conversational (2 s, 100 ms), -interactive (500 ms, 30
    ms), and both for mlperf-llama2-70b, mlperf-gpt-oss-120b and mlperf-deepseek-r1.
    """
    from artifacts.slo import parse_slo
    from loadtest.lengths import longest_tokens
    from loadtest.looks import least_look_s
    from loadtest.protocol import API_KEY_VARIABLE
    from loadtest.saturation import SearchRequest, search_capacity
    from prunebench.console import note, print_result, show_progress
    from prunebench.load_reading import read_workload

    limits = parse_slo(slo)
    workload = read_workload((prompt_tokens, output_tokens), seed)
    request = SearchRequest(
        url=url,
        models=tuple(model),
        slo=limits,
        workload=workload,
        out=out,
        policy=policy_of(start_rate, lowest_rate, highest_rate, precision, most_looks),
        look_s=max(_LEAST_LOOK_S, least_look_s(limits, precision)) if look is None else look,
        arrivals=arrivals.value,
        burstiness=burstiness,
        warmup_s=warmup,
        timeout_s=patience_s(limits.longest_s(longest_tokens(workload.output_tokens))),
        api_key=os.environ.get(API_KEY_VARIABLE),
    )
    note(f"A full look at {start_rate:g} requests/s takes {request.full_look_s(start_rate):.0f} s.")
    with show_progress() as progress:
        found = search_capacity(request, progress)
    note("\n".join(variant.verdict for variant in found.variants))
    print_result({"out": str(out), **capacity_summary(found)})
    raise typer.Exit(not all(variant.confirmed for variant in found.variants))


def sweep(
    url: opt.Url,
    model: Models,
    out: Folder,
    levels: Annotated[str | None, typer.Option(help="Streams kept busy, as in 1,2,4,8. Default: 1,2,4,8,16.")] = None,
    rates: Annotated[str | None, typer.Option(help="Instead: requests per second, as in 0.5,1,2 (Poisson).")] = None,
    duration: Annotated[float, typer.Option(help="Measured seconds per variant and level.")] = 30,
    blocks: Annotated[int, typer.Option(min=1, help="Interleaved blocks of each level.")] = 4,
    slo: Annotated[str | None, typer.Option(help="Also counts goodput within it, as ttft_p95<500ms.")] = None,
    prompt_tokens: opt.PromptTokens = None,
    output_tokens: opt.OutputTokens = None,
    seed: opt.Seed = 0,
    hardware: opt.HardwareFile = None,
) -> None:
    """Measure tokens/s of the server against tokens/s of each user over levels of load: a Pareto front per variant.

    Example: prunebench sweep --url http://127.0.0.1:8000 --model dense --model pruned-30 --levels 1,2,4,8 --out front

    A user's tokens/s are 1 / TPOT p50. All variants are measured in one paired run per level, which is kept as a run
    directory that `prunebench report` reads. The result names each front and where which variant's is higher. An
    interrupted sweep goes on where it was when the same command is given again.
    """
    from artifacts.slo import parse_slo
    from loadtest.protocol import API_KEY_VARIABLE
    from loadtest.sweep import SweepRequest, run_sweep
    from prunebench.ceiling import show_card, show_reached
    from prunebench.console import note, print_result, show_progress
    from prunebench.load_reading import read_workload

    request = SweepRequest(
        url=url,
        models=tuple(model),
        levels=parse_levels(levels, rates),
        workload=read_workload((prompt_tokens, output_tokens), seed),
        out=out,
        duration_s=duration,
        blocks=blocks,
        slo=None if slo is None else parse_slo(slo),
        api_key=os.environ.get(API_KEY_VARIABLE),
    )
    known = show_card(hardware, url, request.models, request.levels, request.workload)
    with show_progress() as progress:
        result = run_sweep(request, progress)
    show_reached(known, [out / point.folder for point in result.variants[0].points])
    unusable = sorted({p.level.label for v in result.variants for p in v.points if not p.valid})
    for label in unusable:
        note(f"not valid: {label}; see failed_gates in {out / 'sweep.json'}.")
    print_result({"out": str(out), "valid": not unusable, **sweep_summary(result)})
    if unusable:
        raise typer.Exit(1)


def policy_of(start: float, lowest: float, highest: float, precision: float, most_looks: int) -> SearchPolicy:
    """Rates in requests per second. Raises ConfigError for numbers out of range."""
    from artifacts.capacity import SearchPolicy

    rates = {"start_rate_per_s": start, "lowest_rate_per_s": lowest, "highest_rate_per_s": highest}
    return SearchPolicy.parse(rates | {"precision": precision, "most_looks": most_looks}, "the search")


def parse_levels(levels: str | None, rates: str | None) -> tuple[Level, ...]:
    """Closed-loop levels or Poisson rates. Raises ConfigError for both, or for what is no list of positive numbers."""
    from prunebench.load_reading import read_levels

    if levels is not None and rates is not None:
        raise ConfigError("--levels and --rates are two ways to load a server. Give one of the two.")
    return read_levels(levels or "1,2,4,8,16", None) if rates is None else read_levels(None, rates)


def patience_s(longest_s: float | None) -> float:
    """When to give a request up that within the limits takes at most `longest_s`."""
    return (
        _MOST_PATIENCE_S if longest_s is None else min(_MOST_PATIENCE_S, max(_LEAST_PATIENCE_S, _PATIENCE * longest_s))
    )


def capacity_summary(found: CapacitySearch) -> dict[str, Any]:
    """The answers without the levels they rest on."""
    return {
        "slo": found.slo.text,
        "variants": [variant.model_dump(mode="json", exclude={"levels"}) for variant in found.variants],
        "ratios": [ratio.model_dump() for ratio in found.ratios],
    }


def sweep_summary(result: Sweep) -> dict[str, Any]:
    """Fronts and areas, without the measures of every level."""
    return {
        "fronts": {v.model: [list(p.place) for p in v.points if p.on_front and p.place] for v in result.variants},
        "dominance": [d.model_dump() for d in result.dominance],
    }
