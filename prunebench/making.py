"""The verbs that make variants: compress and recover. Heavy packages are imported when a verb runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prunebench.choices import (
    Allocation,
    AllocationOption,
    BudgetOption,
    CalibrationText,
    Compensate,
    DeviceName,
    Folder,
    LatencyTable,
    MapStates,
    Method,
    MultipleOf,
    PatternOption,
    RecoveryMethod,
    RepairOption,
    Settings,
    Steps,
    Together,
    Trainable,
    UnitNames,
    chosen_repair,
    parse_step,
    parse_units,
)


def compress(
    model: Annotated[str, typer.Argument(help="Local checkpoint folder or hub id, e.g. Qwen/Qwen2.5-0.5B.")],
    out: Folder,
    method: Annotated[Method, typer.Option(help="How to choose what goes: see docs/methods.md.")],
    ratio: Annotated[float, typer.Option(help="Share of each kind of unit to remove, of weights to mask: [0, 1).")],
    units: UnitNames = None,
    settings: Settings = None,
    calibration: CalibrationText = None,
    calibration_tokens: Annotated[int, typer.Option(help="How much of it to use.")] = 32768,
    seed: Annotated[int, typer.Option(help="Decides random choices and calibration windows.")] = 0,
    multiple_of: MultipleOf = None,
    pattern: PatternOption = None,
    compensate: Compensate = None,
    repair: RepairOption = None,
    allocation: AllocationOption = Allocation.uniform,
    budget: BudgetOption = None,
    latency_table: LatencyTable = None,
    device: Annotated[DeviceName, typer.Option(help="Where a block is computed.")] = DeviceName.cpu,
    map_states: MapStates = False,
    together: Together = 1,
    then: Steps = None,
) -> None:
    """Write a pruned variant of MODEL, verified by reloading it in a fresh process.

    Example: prunebench compress MODEL --out pruned-30 --method wanda_sp --ratio 0.3 --units ffn --calibration text.txt

    Depth, then width: prunebench compress MODEL --out both --method greedy_kl --ratio 0.1 --then wanda_sp:0.25:ffn
    --calibration text.txt. Calibration, seed and the other options but --set hold for every step; the result's ratios
    count all.
    """
    from compressors.chain import compress_chain
    from compressors.request import CompressionRequest
    from prunebench.console import note, print_result, show_progress

    request = CompressionRequest(
        model=model,
        out=out,
        method=method.value,
        ratio=ratio,
        units=parse_units(units),
        settings=tuple(settings or ()),
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        seed=seed,
        multiple_of=multiple_of,
        pattern=pattern,
        repair=chosen_repair(compensate, repair),
        allocation=allocation.value,
        budget=None if budget is None else budget.value,
        latency_table=latency_table,
        device=device.value,
        map_states=map_states,
        together=together,
    )
    with show_progress() as progress:
        steps = [request, *(replace(request, **parse_step(step)) for step in then or ())]
        manifest = compress_chain(steps, progress, announce=lambda card: note("\n".join(card.lines())))
    shown = manifest.model_dump(include={"name", "architecture", "ratios", "sparsity", "footprint", "cost"})
    print_result({"out": str(out), **shown})


def recover(
    variant: Annotated[Path, typer.Argument(metavar="VARIANT", help="Variant folder that compress wrote; only read.")],
    out: Folder,
    method: Annotated[RecoveryMethod, typer.Option(help="What is trained, and towards what.")],
    text: Annotated[
        Path, typer.Option(help="Training text; some of its documents are held out. Not the text you evaluate on.")
    ],
    teacher: Annotated[
        Path | None, typer.Option(help="The dense model the variant came from; distillation and block_local need it.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="Training tokens; for block_local those each half layer sees.")
    ] = 1_000_000,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule. Default: the method's own.")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one optimizer step.")] = 4096,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapters, for what trains with LoRA. Default: 16.")
    ] = None,
    trainable: Annotated[Trainable | None, typer.Option(help="What distillation trains. Default: full.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of the text and the adapters' start.")] = 0,
    device: Annotated[DeviceName, typer.Option(help="Where to train.")] = DeviceName.cpu,
    allow_evaluated_text: Annotated[
        bool, typer.Option("--allow-evaluated-text", help="Train even on text that VARIANT's quality was measured on.")
    ] = False,
) -> None:
    """Train a pruned variant back towards the dense model; writes a new variant with its loss curve.

    An interrupted run goes on where it was when the same command is given again.

    Example: prunebench recover pruned-50 --out healed-50 --method distillation --teacher MODEL --text train.txt
    """
    from compressors.recovery.recover import RecoveryRequest
    from compressors.recovery.recover import recover as run_recover
    from laws.recovery_curve import write_curve_page
    from prunebench.console import print_result, show_progress

    request = RecoveryRequest(
        variant=variant,
        out=out,
        method=method.value,
        text=text,
        teacher=teacher,
        tokens=tokens,
        learning_rate=learning_rate,
        batch_tokens=batch_tokens,
        rank=rank,
        trainable=None if trainable is None else trainable.value,
        seed=seed,
        device=device.value,
        allow_evaluated_text=allow_evaluated_text,
    )
    with show_progress() as progress:
        manifest = run_recover(request, progress, draw=write_curve_page)
    print_result({"out": str(out), **manifest.model_dump(include={"name", "base", "recovery"})})
