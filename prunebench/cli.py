"""The `prunebench` command: six verbs and the demo. Heavy packages are imported inside the verb that needs them."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifacts.errors import ConfigError, PrunebenchError

if TYPE_CHECKING:
    from artifacts.variant import Unit

app = typer.Typer(
    name="prunebench",
    help="Prune a language model, serve it beside the dense one with vLLM, measure what it gains and what it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Method(StrEnum):
    """The names the registry knows; a test compares the two."""

    random = "random"
    magnitude = "magnitude"
    wanda_sp = "wanda_sp"
    block_influence = "block_influence"


class RecoveryMethod(StrEnum):
    """The names of `compressors.recovery.methods`; a test compares the two."""

    lora = "lora"
    full = "full"
    distillation = "distillation"
    block_local = "block_local"


class Trainable(StrEnum):
    full = "full"
    lora = "lora"


class DeviceName(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class Arrivals(StrEnum):
    constant = "constant"
    poisson = "poisson"


Folder = Annotated[Path, typer.Option(help="Folder to create; must not exist yet (an empty one is fine).")]


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="Local checkpoint folder or hub id, e.g. Qwen/Qwen2.5-0.5B.")],
    out: Folder,
    method: Annotated[Method, typer.Option(help="How to choose what goes: see docs/methods.md.")],
    ratio: Annotated[float, typer.Option(help="Share of each chosen kind of unit to remove, in [0, 1).")],
    units: Annotated[
        str | None, typer.Option(help="ffn, kv, 'ffn,kv' or layers. Default: what the method is for.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Text file or hub dataset. Not the text you evaluate on.")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(help="How much of it to use.")] = 32768,
    seed: Annotated[int, typer.Option(help="Decides random choices and calibration windows.")] = 0,
    multiple_of: Annotated[
        int | None, typer.Option(help="Round FFN widths to this. Default: 128 from width 1024 up.")
    ] = None,
    compensate: Annotated[
        bool | None,
        typer.Option("--compensate/--no-compensate", help="Ridge repair. Default: on when there is calibration text."),
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="Where a block is computed.")] = DeviceName.cpu,
    map_states: Annotated[
        bool,
        typer.Option("--map-states", help="Keep calibration hidden states in files beside OUT, not in memory."),
    ] = False,
) -> None:
    """Write a structured-pruned variant of MODEL, verified by reloading it in a fresh process.

    Example: prunebench compress MODEL --out pruned-30 --method wanda_sp --ratio 0.3 --units ffn --calibration text.txt
    """
    from compressors.pipeline import compress as run_compress
    from compressors.request import CompressionRequest
    from prunebench.console import note, print_result, show_progress

    request = CompressionRequest(
        model=model,
        out=out,
        method=method.value,
        ratio=ratio,
        units=parse_units(units),
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        seed=seed,
        multiple_of=multiple_of,
        compensate=compensate,
        device=device.value,
        map_states=map_states,
    )
    with show_progress() as progress:
        manifest = run_compress(request, progress, announce=lambda card: note("\n".join(card.lines())))
    shown = manifest.model_dump(include={"name", "architecture", "ratios", "footprint", "cost"})
    print_result({"out": str(out), **shown})


@app.command()
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


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoint or variant folder.")],
    text: Annotated[Path, typer.Option(help="Held-out text file.")],
    reference: Annotated[Path | None, typer.Option(help="Dense model: adds KL divergence and top-1 agreement.")] = None,
    length: Annotated[int, typer.Option(help="Window in tokens; perplexities compare only at equal length.")] = 512,
    max_tokens: Annotated[
        int | None, typer.Option(help="Stop after this many tokens. Default: the whole text.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Also write the values into DIR/variant.json.")] = False,
) -> None:
    """Measure loss and perplexity on held-out text, and the divergence from a reference model."""
    from artifacts.variant import record_quality
    from compressors.quality import EvaluationRequest
    from compressors.quality import evaluate as run_evaluate
    from prunebench.console import print_result, show_progress

    request = EvaluationRequest(
        model=folder, text=text, reference=reference, length_tokens=length, max_tokens=max_tokens
    )
    with show_progress() as progress:
        evaluation = run_evaluate(request, progress)
    if record:
        record_quality(folder, evaluation.records(reference.name if reference else None))
    print_result(evaluation.model_dump())


@app.command()
def serve(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FLEET.toml|DIR...", help="A fleet file, or variant folders.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the variants behind one OpenAI-compatible endpoint, one vLLM process each. Ctrl-C drains and stops."""
    from artifacts.fleet import Fleet, fleet_of_folders
    from prunebench.console import note, print_result
    from server.serve import serve as run_serve

    is_file = len(sources) == 1 and sources[0].suffix in (".toml", ".json")
    fleet = Fleet.load(sources[0]) if is_file else fleet_of_folders(sources)
    print_result(run_serve(fleet, host, port, note).model_dump())


@app.command()
def loadtest(
    url: Annotated[str, typer.Option(help="The endpoint, e.g. http://127.0.0.1:8000.")],
    model: Annotated[list[str], typer.Option(help="Model to measure; may be given several times.")],
    out: Folder,
    against: Annotated[str | None, typer.Option(help="Reference model: pairs the arms in interleaved blocks.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Closed loop: this many streams kept busy.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: this many requests per second, whatever happens.")
    ] = None,
    arrivals: Annotated[Arrivals, typer.Option(help="Arrival process of the open loop.")] = Arrivals.poisson,
    duration: Annotated[float, typer.Option(help="Measured seconds per model.")] = 60,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Exact prompt length.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Exact output length.")] = 64,
    blocks: Annotated[int, typer.Option(min=1, help="Interleaved blocks; 8 or more for a trustworthy interval.")] = 8,
    seed: Annotated[int, typer.Option(help="Decides arrivals and prompts.")] = 0,
) -> None:
    """Measure throughput, TTFT, TPOT, inter-token and end-to-end latency; fail when the run is not valid.

    Example: prunebench loadtest --url http://127.0.0.1:8000 --model pruned-30 --against dense --concurrency 8 --out run
    """
    from artifacts.run import Level, Workload
    from loadtest.runner import LoadTestRequest, run_load_test
    from prunebench.console import note, print_result, show_progress

    if (concurrency is None) == (rate is None):
        raise ConfigError("The load is not defined: give either --concurrency N or --rate R, not both.")
    request = LoadTestRequest(
        url=url,
        models=tuple(model),
        against=against,
        level=Level(concurrency=concurrency, rate_per_s=rate, arrivals=arrivals.value if rate else None),
        workload=Workload(prompt_tokens=prompt_tokens, output_tokens=output_tokens, seed=seed),
        duration_s=duration,
        out=out,
        blocks=blocks,
    )
    with show_progress() as progress:
        run = run_load_test(request, progress)
    for gate in run.gates:
        if not gate.passed:
            note(
                f"not valid: {gate.name} = {gate.observed} (limit {gate.limit} {gate.unit}). {gate.cause} {gate.remedy}"
            )
    shown = run.model_dump(include={"arms", "comparisons"})
    print_result({"out": str(out), "valid": run.valid, **shown})
    if not run.valid:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders that loadtest wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML page to write; a .json with all its numbers goes beside it.")],
    hardware: Annotated[
        Path | None, typer.Option(help="JSON with memory_bytes_per_s and flops_per_s: adds the roofline's ceiling.")
    ] = None,
) -> None:
    """Turn runs into one self-contained page: what was pruned, how fast it serves, what it costs, can it be trusted."""
    from laws.report import write_report
    from prunebench.console import print_result

    print_result(write_report(runs, out, hardware))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for variants, runs and the report; valid parts are reused.")] = Path(
        "demo-out"
    ),
) -> None:
    """The whole job on the embedded model: prune, serve with vLLM, load-test, report. Ten minutes on 2 cores."""
    from laws.findings import Findings
    from laws.table import summary_rows
    from prunebench.console import print_result, show_progress, show_table
    from prunebench.demo import run_demo

    with show_progress() as progress:
        result = run_demo(out, progress)
    show_table(summary_rows(Findings.load(Path(result["data"]))))
    print_result(result)
    if not result["valid"]:
        raise typer.Exit(1)


def parse_units(text: str | None) -> tuple[Unit, ...] | None:
    """'ffn,kv' → ('ffn', 'kv'). Raises ConfigError for anything that is no unit."""
    if text is None:
        return None
    known: dict[str, Unit] = {"ffn": "ffn", "kv": "kv", "layers": "layers"}
    names = [part.strip() for part in text.split(",")]
    if len(set(names)) != len(names) or not known.keys() >= set(names):
        raise ConfigError(f"--units {text!r} is not a list of units. Allowed: ffn, kv, 'ffn,kv', layers.")
    return tuple(known[name] for name in names)


def main() -> None:
    """Runs the command; an error that a user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except PrunebenchError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
