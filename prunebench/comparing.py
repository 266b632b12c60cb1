"""The verb that compares: several levels, an A/A control, one verdict per question. Imports wait for its call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunebench import load_options as opt
from prunebench.choices import Arrivals, Folder, parse_share

if TYPE_CHECKING:
    from artifacts.campaign import Campaign
    from artifacts.run import Estimate, Gate
    from loadtest.campaign import CampaignRequest

Detect = Annotated[str | None, typer.Option(help="Choose --blocks so that this effect is found, as in 5%.")]
Spread = Annotated[str | None, typer.Option(help="How much one block's ratio varies, as in 3%. Default: 10%.")]
Pilot = Annotated[Path | None, typer.Option(help="Take the spread from this earlier run, best an A/A control.")]


def compare(
    url: opt.Url,
    model: Annotated[list[str], typer.Option(help="Model to measure; may be given several times.")],
    against: Annotated[str, typer.Option(help="Reference model; also its own A/A control.")],
    out: Folder,
    levels: Annotated[str | None, typer.Option(help="Closed loops: streams kept busy, as in 1,4,16.")] = None,
    rates: Annotated[str | None, typer.Option(help="Open loops: requests per second, as in 2,4.")] = None,
    arrivals: opt.ArrivalsOption = Arrivals.poisson,
    burstiness: opt.BurstinessOption = None,
    blocks: Annotated[int | None, typer.Option(min=2, help="Interleaved blocks. Default: 8, or as --detect needs.")] = (
        None
    ),
    detect: Detect = None,
    spread: Spread = None,
    pilot: Pilot = None,
    window: Annotated[float, typer.Option(help="Measured seconds of one model in one block.")] = 5,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before each window.")] = 1,
    control: Annotated[bool, typer.Option("--control/--no-control", help="Measure the reference twice.")] = True,
    prompt_tokens: opt.PromptTokens = None,
    output_tokens: opt.OutputTokens = None,
    seed: opt.Seed = 0,
    hardware: opt.HardwareFile = None,
) -> None:
    """Compare models at several levels of load: ratios with intervals, corrected for how much is asked, and a control.

    An interrupted comparison goes on with its finished levels when the same command is given again.

    Example: prunebench compare --url http://127.0.0.1:8000 --model ffn-30 --against dense --levels 1,4,16 --out c
    """
    from loadtest.campaign import CampaignRequest
    from loadtest.design import plan_design
    from loadtest.pairing import SPEEDUPS
    from prunebench.load_reading import read_levels, read_workload

    asked = read_levels(levels, rates, arrivals.value, burstiness)
    design = plan_design(
        blocks=blocks,
        wanted=parse_share("--detect", detect),
        spread=parse_share("--spread", spread),
        pilot=pilot,
        family=max(1, len(asked) * len(model) * len(SPEEDUPS)),
    )
    request = CampaignRequest(
        url=url,
        models=tuple(model),
        against=against,
        levels=asked,
        workload=read_workload((prompt_tokens, output_tokens), seed),
        design=design,
        window_s=window,
        out=out,
        control=control,
        warmup_s=warmup,
    )
    if not _run(request, hardware):
        raise typer.Exit(1)


def _run(request: CampaignRequest, hardware_file: Path | None) -> bool:
    """Says what can be shown, measures, prints; False where the result is not valid."""
    from loadtest.campaign import run_campaign
    from loadtest.design import describe
    from prunebench.ceiling import show_card, show_reached
    from prunebench.console import note, print_result, show_progress, show_table

    arms = (request.against, *request.models)
    hardware = show_card(hardware_file, request.url, arms, request.levels, request.workload)
    note(f"{describe(request.design)} {request.design.family} hypotheses, {request.measured_s:.0f} s of load.")
    with show_progress() as progress:
        campaign = run_campaign(request, progress)
    for level in campaign.levels:
        for gate in level.failed_gates:
            note(f"{level.level.label} is not valid: {explain(gate)}")
    if not campaign.control_held:
        note("The A/A control differs from 1: what this machine shows as a difference need not be one.")
    show_table(_table(campaign))
    show_reached(hardware, [request.out / level.folder for level in campaign.levels])
    shown = campaign.model_dump(include={"questions", "controls", "design"})
    print_result({"out": str(request.out), "valid": campaign.valid, "control_held": campaign.control_held, **shown})
    return campaign.valid


def explain(gate: Gate) -> str:
    """One line about a gate that failed."""
    return f"{gate.name} = {gate.observed} (limit {gate.limit} {gate.unit}). {gate.cause} {gate.remedy}"


def _table(campaign: Campaign) -> list[list[str]]:
    rows = [["level", "model", "measure", "ratio", "paired t", "BCa bootstrap", "p (Holm)", "A/A band", "verdict"]]
    for question in campaign.questions:
        estimate = question.estimate
        both = {interval.method: f"[{interval.low:.3f}, {interval.high:.3f}]" for interval in estimate.intervals}
        p = "" if question.p_adjusted is None else f"{question.p_adjusted:.3g}"
        rows.append(
            [
                *(question.level, question.model, question.measure.removeprefix("speedup_"), f"{estimate.value:.3f}"),
                *(both.get("paired_t", ""), both.get("bca_bootstrap", ""), p, _band(question.control)),
                question.verdict,
            ]
        )
    return rows


def _band(control: Estimate | None) -> str:
    return "" if control is None or control.low is None else f"[{control.low:.3f}, {control.high:.3f}]"
