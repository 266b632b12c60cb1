"""The verb that answers with a study: which variant to deploy within a target, and which to build next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from laws.studies.advice import Advice

StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder that `study run` wrote, or the file it was run from.")
]
StudyFolders = Annotated[
    list[Path],
    typer.Argument(metavar="STUDY...", help="Folders that `study run` wrote, or the files they were run from."),
]


def advise(
    studies: StudyFolders,
    slo: Annotated[str | None, typer.Option(help="Limits as ttft_p95<500ms,tpot_p95<50ms, or a preset.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second to be served.")] = None,
    max_loss: Annotated[
        str | None, typer.Option(help="Most that may be lost: 0.1 nats per token (or accuracy), or 5% of the dense.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="Text or task that quality is judged on. Default: the first.")] = None,
    reference: Annotated[str | None, typer.Option(help="Dense model to lose against. Default: the largest.")] = None,
    level: Annotated[str | None, typer.Option(help="Level of load, as the study names it.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Only speeds measured on hardware with this in its name.")] = None,
) -> None:
    """Which variant of a study to deploy: the Pareto front, the choice with its reasons, and what laws expect beyond.

    A smaller dense model and a quantised twin are candidates like the pruned ones. Several studies count as one:
    losses may come from one and speeds from another.

    Example: prunebench advise demo-laws.study --max-loss 5% --slo 'tpot_p95<20ms'
    """
    from artifacts.slo import parse_slo
    from laws.studies.advice import Target, parse_allowance
    from laws.studies.advice import advise as answer
    from laws.studies.candidates import quality_name
    from laws.studies.comparison import analyse
    from laws.studies.joining import read_studies, require_one_machine
    from laws.studies.records import on_hardware
    from prunebench.console import note, print_result, show_table

    allowance, relative = parse_allowance(max_loss) if max_loss is not None else (None, False)
    target = Target(
        slo=parse_slo(slo) if slo else None,
        rate_per_s=rate,
        max_loss=allowance,
        relative=relative,
        on=on,
        reference=reference,
        level=level,
    )
    found = require_one_machine(on_hardware(read_studies(studies), gpu))
    advice = answer(analyse(found, on=quality_name(found, on)), target)
    show_table(rows_of(advice))
    note("\n".join(advice.reasons))
    if advice.next_build is not None:
        note(next_text(advice))
    print_result(result_of(advice))
    raise typer.Exit(advice.recommended is None)


def rows_of(advice: Advice) -> list[list[str]]:
    """The front, best quality first, with what the recommended variant and others miss."""
    header = ["", "variant", f"loss, {advice.unit}", f"speed, × {advice.reference}", "misses"]
    rows = [
        [
            "→" if placed.candidate.name == advice.recommended else "",
            placed.candidate.name,
            _ends(placed.candidate.rise, placed.candidate.rise_low, placed.candidate.rise_high),
            _ends(placed.candidate.speed, placed.candidate.speed_low, placed.candidate.speed_high),
            "; ".join(placed.misses),
        ]
        for placed in advice.candidates
        if placed.on_front or placed.candidate.name == advice.recommended
    ]
    return [header, *rows]


def next_text(advice: Advice) -> str:
    """One line on the variant that nobody has built yet."""
    build = advice.next_build
    assert build is not None
    recovered = (
        "" if build.recovery == "none" else f" with {build.recovery} on {build.recovery_tokens / 1e6:g} M tokens"
    )
    speed = _ends(build.speed or 0.0, build.speed_low, build.speed_high)
    return (
        f"Not built yet: {build.model} {build.method} {build.ratio:g}{recovered} should lose "
        f"{_ends(build.rise, build.rise_low, build.rise_high)} {advice.unit} at {speed} × {advice.reference} "
        f"(by the law {build.law})."
    )


def result_of(advice: Advice) -> dict[str, Any]:
    """What is printed: the answer and the front; all candidates and predictions are in the study's report."""
    ahead = [placed.candidate.model_dump() for placed in advice.candidates if placed.on_front]
    named = next((p.candidate.model_dump() for p in advice.candidates if p.candidate.name == advice.recommended), None)
    rest = advice.model_dump(mode="json", exclude={"candidates", "recommended"})
    return {"recommended": named, "front": ahead, **rest}


def _ends(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"
