"""The `prunebench` command: five verbs and the demo. Heavy packages are imported inside the verb that needs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifacts.errors import ConfigError, PrunebenchError

if TYPE_CHECKING:
    from artifacts.variant import Unit
    from compressors.repair import Repair

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
    flap = "flap"
    taylor = "taylor"
    modegpt_mlp = "modegpt_mlp"
    prunenet = "prunenet"
    obs = "obs"
    block_influence = "block_influence"


class Allocation(StrEnum):
    """How a budget is spread over layers; a test compares these with what the compressor knows."""

    uniform = "uniform"
    depth_increasing = "depth_increasing"
    influence_softmax = "influence_softmax"
    global_threshold = "global_threshold"
    dynamic_programme = "dynamic_programme"
    evolutionary = "evolutionary"


class BudgetKind(StrEnum):
    """What --ratio is a share of."""

    units = "units"
    params = "params"
    kv_bytes = "kv_bytes"
    latency = "latency"


class RepairName(StrEnum):
    none = "none"
    ridge = "ridge"
    bias = "bias"


class DeviceName(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class Arrivals(StrEnum):
    constant = "constant"
    poisson = "poisson"


AllocationOption = Annotated[
    Allocation, typer.Option(help="How widths may differ between layers: see docs/architecture.md.")
]
BudgetOption = Annotated[
    BudgetKind | None,
    typer.Option(help="What --ratio is a share of. Default: units for uniform, else params of the layers."),
]
TableOption = Annotated[Path | None, typer.Option(help="Measured seconds per half layer, for --budget latency.")]
MapOption = Annotated[
    bool, typer.Option("--map-states", help="Keep calibration hidden states in files beside OUT, not in memory.")
]
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
    repair: Annotated[
        RepairName | None, typer.Option(help="Which repair: ridge refits consumers, bias adds FLAP's constant.")
    ] = None,
    allocation: AllocationOption = Allocation.uniform,
    budget: BudgetOption = None,
    latency_table: TableOption = None,
    device: Annotated[DeviceName, typer.Option(help="Where a block is computed.")] = DeviceName.cpu,
    map_states: MapOption = False,
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
        repair=chosen_repair(compensate, repair),
        allocation=allocation.value,
        budget=None if budget is None else budget.value,
        latency_table=latency_table,
        device=device.value,
        map_states=map_states,
    )
    with show_progress() as progress:
        manifest = run_compress(request, progress, announce=lambda card: note("\n".join(card.lines())))
    shown = manifest.model_dump(include={"name", "architecture", "ratios", "footprint", "cost"})
    print_result({"out": str(out), **shown})


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoint or variant folder.")],
    text: Annotated[Path | None, typer.Option(help="Held-out text file: loss and perplexity.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Dense model: adds KL and Jensen-Shannon divergence and top-1 agreement.")
    ] = None,
    length: Annotated[int, typer.Option(help="Window in tokens; perplexities compare only at equal length.")] = 512,
    max_tokens: Annotated[
        int | None, typer.Option(help="Stop after this many tokens. Default: the whole text.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="lm-evaluation-harness task: its name, a .yaml, or a .jsonl of questions; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions of each task.")] = None,
    url: Annotated[str | None, typer.Option(help="Score tasks through this OpenAI-compatible endpoint.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there. Default: DIR's name.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Also write the values into DIR/variant.json.")] = False,
) -> None:
    """Measure held-out loss and perplexity, the divergence from a reference model, and scores on tasks.

    Example: prunebench evaluate pruned-30 --task questions.jsonl --url http://127.0.0.1:8000 --record
    """
    from artifacts.variant import load_variant, record_quality
    from compressors.quality import EvaluationRequest
    from compressors.tasks import TaskRequest
    from prunebench.console import print_result, show_progress
    from prunebench.evaluation import measure

    for_tasks = {"--limit": limit, "--url": url, "--model": model}
    for_text = {"--reference": reference, "--max-tokens": max_tokens}
    require_purpose(text, task, for_text, for_tasks)
    if record:
        load_variant(folder)
    text_request = text and EvaluationRequest(
        model=folder, text=text, reference=reference, length_tokens=length, max_tokens=max_tokens
    )
    task_request = task and TaskRequest(model=folder, tasks=tuple(task), limit=limit, url=url, served_as=model)
    with show_progress() as progress:
        result, records = measure(text_request or None, task_request or None, progress)
    if record:
        record_quality(folder, records)
    print_result(result)


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


def chosen_repair(compensate: bool | None, repair: RepairName | None) -> Repair | None:
    """What the two options together say; None leaves it to the method. Raises ConfigError if they contradict."""
    if repair is None:
        return None if compensate is None else "ridge" if compensate else "none"
    if compensate is not None and compensate != (repair is not RepairName.none):
        raise ConfigError(
            f"--{'' if compensate else 'no-'}compensate and --repair {repair.value} contradict. Give one of the two."
        )
    return repair.value


def parse_units(text: str | None) -> tuple[Unit, ...] | None:
    """'ffn,kv' → ('ffn', 'kv'). Raises ConfigError for anything that is no unit."""
    if text is None:
        return None
    known: dict[str, Unit] = {"ffn": "ffn", "kv": "kv", "layers": "layers"}
    names = [part.strip() for part in text.split(",")]
    if len(set(names)) != len(names) or not known.keys() >= set(names):
        raise ConfigError(f"--units {text!r} is not a list of units. Allowed: ffn, kv, 'ffn,kv', layers.")
    return tuple(known[name] for name in names)


def require_purpose(
    text: Path | None, task: list[str] | None, for_text: Mapping[str, object], for_tasks: Mapping[str, object]
) -> None:
    """Raises ConfigError if nothing is to be measured, or an option is given that nothing uses."""
    if text is None and not task:
        raise ConfigError("Nothing to measure: give --text FILE, --task NAME or both.")
    for wanted, options, needed in ((text, for_text, "--text"), (task, for_tasks, "--task")):
        unused = [name for name, value in options.items() if value is not None]
        if not wanted and unused:
            raise ConfigError(f"{unused[0]} has no effect without {needed}. Give {needed} or leave it out.")
    if for_tasks["--model"] is not None and for_tasks["--url"] is None:
        raise ConfigError("--model names a served model and needs --url. Give the endpoint's URL or leave it out.")


def main() -> None:
    """Runs the command; an error that a user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except PrunebenchError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
