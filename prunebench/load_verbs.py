"""The verbs that put load on a server and measure the load client itself. Imports wait for their call."""

from __future__ import annotations

from typing import Annotated

import typer

from prunebench import load_options as opt
from prunebench.choices import Arrivals, Folder, TraceLayout
from prunebench.comparing import Pilot


def loadtest(
    url: opt.Url,
    model: opt.Models,
    out: Folder,
    against: Annotated[str | None, typer.Option(help="Reference model: pairs the arms in interleaved blocks.")] = None,
    concurrency: opt.Concurrency = None,
    rate: opt.RateOption = None,
    arrivals: opt.ArrivalsOption = Arrivals.poisson,
    burstiness: opt.BurstinessOption = None,
    step: opt.StepOption = None,
    ramp: opt.RampOption = None,
    trace: opt.TraceOption = None,
    trace_format: opt.TraceFormatOption = TraceLayout.azure,
    trace_span: opt.TraceSpanOption = None,
    time_scale: opt.TimeScaleOption = None,
    length_scale: opt.LengthScaleOption = None,
    context_tokens: opt.ContextOption = None,
    duration: opt.Duration = None,
    prompt_tokens: opt.PromptTokens = None,
    output_tokens: opt.OutputTokens = None,
    chat: opt.ChatOption = None,
    prefix_share: opt.PrefixShare = None,
    prefixes: opt.Prefixes = None,
    natural_ends: opt.NaturalEnds = False,
    blocks: Annotated[int, typer.Option(min=1, help="Interleaved blocks; 8 or more for a trustworthy interval.")] = 8,
    seed: opt.Seed = 0,
    client_processes: opt.ClientProcesses = 1,
    calibrated: opt.Calibrated = False,
    stop_on: opt.StopOn = "",
    pilot: Pilot = None,
    hardware: opt.HardwareFile = None,
) -> None:
    """Measure throughput, TTFT, TPOT, inter-token and end-to-end latency; fail when the run is not valid.

    Example: prunebench loadtest --url http://127.0.0.1:8000 --model pruned-30 --against dense --concurrency 8 --out run
    """
    from loadtest.runner import LoadTestRequest
    from prunebench.load_reading import read_level, read_trace_source, read_workload
    from prunebench.loading import default_duration_s, measure_load

    load = {"--concurrency": concurrency, "--rate": rate, "--step": step, "--ramp": ramp}
    level = read_level(load, trace, arrivals.value, burstiness)
    source = read_trace_source(trace, trace_format.value, trace_span, time_scale, length_scale)
    request = LoadTestRequest(
        url=url,
        models=tuple(model),
        against=against,
        level=level,
        workload=read_workload(
            (prompt_tokens, output_tokens), seed, source, chat, (prefix_share, prefixes), natural_ends
        ),
        duration_s=default_duration_s(level, blocks) if duration is None else duration,
        out=out,
        blocks=blocks,
        trace=source,
        context_tokens=context_tokens,
        client_processes=client_processes,
        stop_on=stop_on,
    )
    raise typer.Exit(not measure_load(request, calibrated, hardware, pilot))


def calibrate(
    tokens_per_s: Annotated[float, typer.Option(min=1, help="The load: so many tokens/s, in streams of 100.")] = 5000,
    client_processes: Annotated[int, typer.Option(min=1, help="As in loadtest.")] = 1,
) -> None:
    """Measure the load client itself against a simulated server of known times: what can it do on this machine?

    Example: prunebench calibrate --tokens-per-s 20000
    """
    from prunebench.calibration import calibrate as run_calibration
    from prunebench.console import print_result, show_progress

    with show_progress() as progress:
        found = run_calibration(tokens_per_s, client_processes, progress)
    print_result(found.model_dump())
