"""The `prunebench` command: the verbs and the demo. Heavy packages are imported inside the verb that needs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from artifacts.errors import ConfigError, PrunebenchError
from prunebench import laws_verbs, study_verbs, watching
from prunebench.advise_verb import advise
from prunebench.capacity import search, sweep
from prunebench.choices import DeviceName, EngineType, KeyRole, parse_widths
from prunebench.comparing import compare
from prunebench.load_verbs import calibrate, loadtest
from prunebench.making import compress, recover

app = typer.Typer(
    name="prunebench",
    help="Prune a language model, serve it beside the dense one with vLLM, measure what it gains and what it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (compress, recover, loadtest, calibrate, compare, search, sweep, advise):
    app.command()(_verb)
app.add_typer(watching.app)
app.add_typer(laws_verbs.app)
app.add_typer(study_verbs.app)


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
def latency(
    model: Annotated[str, typer.Argument(help="Folder or hub id of the dense model; only its config.json is read.")],
    out: Annotated[Path, typer.Option(help="The table to write, for compress --budget latency --latency-table.")],
    batch: Annotated[int, typer.Option(min=1, help="Sequences that decode together.")] = 8,
    context: Annotated[int, typer.Option(min=1, help="Tokens in front of each decoded one.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each engine; the least disturbed counts.")] = 9,
    ffn_widths: Annotated[str | None, typer.Option(help="As in 256,512. Default: eighths of the dense width.")] = None,
    kv_groups: Annotated[str | None, typer.Option(help="As in 1,2. Default: all, at most eight.")] = None,
    checks: Annotated[int, typer.Option(min=0, help="Uneven shapes that tell how far the table can be trusted.")] = 2,
    dtype: Annotated[EngineType, typer.Option(help="What the engine computes in.")] = EngineType.auto,
) -> None:
    """Measure how long half layers of MODEL take in vLLM on this machine, with drawn weights, one engine per shape.

    An interrupted run goes on where it was when the same command is given again.

    Example: prunebench latency MODEL --out latency.json --batch 16 --context 1024
    """
    from prunebench.console import note, print_result, show_progress
    from prunebench.timing import LatencyRequest, measure_latency, summary, warnings_about

    request = LatencyRequest(
        model=model,
        out=out,
        batch=batch,
        context_tokens=context,
        repeats=repeats,
        ffn_widths=parse_widths("--ffn-widths", ffn_widths),
        kv_groups=parse_widths("--kv-groups", kv_groups),
        checks=checks,
        dtype=dtype.value,
    )
    with show_progress() as progress:
        table = measure_latency(request, progress)
    for warning in warnings_about(table):
        note(warning)
    print_result({"out": str(out), **summary(table)})


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
    source = sources[0] if is_file else None
    print_result(run_serve(fleet, host, port, note, source).model_dump())


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[Path, typer.Option(help="The fleet's keys_file; it gets the key's hash and is made if missing.")],
    role: Annotated[KeyRole, typer.Option(help="May it only ask, or steer the server as well?")] = KeyRole.ask,
    requests_per_minute: Annotated[float | None, typer.Option(help="Default: no limit.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once. Default: those of a minute.")] = None,
) -> None:
    """Make an API key and print it, this once. A server that runs takes it up within a second.

    Example: prunebench key alice --requests-per-minute 600 --file keys.json
    """
    from artifacts.keys import add_key
    from prunebench.console import print_result

    made = add_key(file, name, role.value, requests_per_minute, burst)
    print_result({"name": name, "role": role.value, "file": str(file), "key": made})


@app.command()
def hardware(
    variant: Annotated[Path, typer.Argument(metavar="DIR", help="Variant whose weights are as large as what is read.")],
    out: Annotated[Path | None, typer.Option(help="File for --hardware. Default: kept for servers here.")] = None,
    device: Annotated[DeviceName, typer.Option(help="What is measured; a GPU's file is given to --hardware.")] = (
        DeviceName.cpu
    ),
) -> None:
    """Measure memory bandwidth and FLOP/s: loadtest, compare and sweep then print the ceiling first."""
    from prunebench.ceiling import measure_hardware
    from prunebench.console import print_result

    place, measured = measure_hardware(variant, out, device.value)
    print_result({"out": str(place), **measured.model_dump()})


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that loadtest, compare, search or sweep wrote.")
    ],
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
